"""Search problem: a space, objectives, limits, and the costs of a vector that are known before training."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kmr.core import Direction, Value
from sweeps.search.space import Space

Params: TypeAlias = Mapping[str, Value]
Canonical: TypeAlias = Callable[[Params], Hashable]
StaticCosts: TypeAlias = Callable[[Params], Mapping[str, float]]


def as_given(params: Params) -> Hashable:
    """Return a key under which two vectors are the same only if all their values are equal."""
    return tuple(sorted((name, round(v, 10) if isinstance(v, float) else v) for name, v in params.items()))


@dataclass(frozen=True)
class Problem:
    """Search problem.

    Args:
        space: the domain of each knob.
        objectives: the direction of each objective, in the study's order.
        limits: the largest value of a meter to minimise, the smallest of one to maximise.
        canonical: function that is equal for vectors that lead to the same model.
        static_costs: function that reads, by name, the meters known exactly before training; the same names every
            time. It is called once for every candidate, so milliseconds count.
        directions: directions of meters that are not objectives; `minimize` for those not listed.
    """

    space: Space
    objectives: Mapping[str, Direction]
    limits: Mapping[str, float] = field(default_factory=dict)
    canonical: Canonical = as_given
    static_costs: StaticCosts | None = None
    directions: Mapping[str, Direction] = field(default_factory=dict)

    def violations(self, readings: Mapping[str, float]) -> dict[str, float]:
        """Return value − limit for every limit, sorted by name; ≤ 0 is feasible, and 0 if there is no reading yet."""
        return {
            name: 0.0 if name not in readings
            else limit - readings[name] if self.objectives.get(name, self.directions.get(name)) == "maximize"
            else readings[name] - limit
            for name, limit in sorted(self.limits.items())
        }  # fmt: skip

    def is_feasible(self, readings: Mapping[str, float]) -> bool:
        """Tell whether the readings meet every limit, as far as they are known."""
        return all(violation <= 0 for violation in self.violations(readings).values())
