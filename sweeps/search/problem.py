"""What is searched: a space, objectives, limits, and what is known of a vector before anything is trained."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kmr.core import Direction, Value
from sweeps.search.space import Space

Params: TypeAlias = Mapping[str, Value]
Canonical: TypeAlias = Callable[[Params], Hashable]
StaticCosts: TypeAlias = Callable[[Params], Mapping[str, float]]


def as_given(params: Params) -> Hashable:
    """Take every vector for itself: two are the same where all their values are."""
    return tuple(sorted((name, round(v, 10) if isinstance(v, float) else v) for name, v in params.items()))


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Args:
        space: the domain of each knob.
        objectives: the direction of each objective, in the study's order.
        limits: the largest value of a meter to minimise, the smallest of one to maximise.
        canonical: equal for vectors that lead to the same model.
        static_costs: reads the meters that are exact before anything is trained, by name; the same names every time.
            Called for every candidate that is thought about, so milliseconds count; a vector is asked about once.
        directions: of meters that are no objectives; one that is not here either is to minimise.
    """

    space: Space
    objectives: Mapping[str, Direction]
    limits: Mapping[str, float] = field(default_factory=dict)
    canonical: Canonical = as_given
    static_costs: StaticCosts | None = None
    directions: Mapping[str, Direction] = field(default_factory=dict)

    def violations(self, readings: Mapping[str, float]) -> dict[str, float]:
        """Return value − limit for every limit, sorted by name; ≤ 0 is feasible, and 0 stands for one not read yet."""
        return {
            name: 0.0 if name not in readings
            else limit - readings[name] if self.objectives.get(name, self.directions.get(name)) == "maximize"
            else readings[name] - limit
            for name, limit in sorted(self.limits.items())
        }  # fmt: skip

    def is_feasible(self, readings: Mapping[str, float]) -> bool:
        """Tell whether no limit is known to be broken."""
        return all(violation <= 0 for violation in self.violations(readings).values())
