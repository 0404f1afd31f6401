"""Bound rejection: no training for a vector that cannot reach the front even if quality surprises by a margin.

Compressing further does not make a model better, up to noise. So what is known of a milder vector (each knob at the
same value, or nearer to the one that changes nothing) bounds the quality of a stronger one, and a finished trial that
is cheaper and better than that bound shuts the stronger vector out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kmr.core import Choice, Domain, Value
from sweeps.errors import SweepError
from sweeps.search.problem import Params, Problem
from sweeps.search.space import Space


class Bound:
    """Tells which vectors are hopeless.

    Args:
        problem: what is searched; objectives that are not known beforehand are the qualities.
        margin: by how much a vector may exceed the milder ones, in the unit of each quality; ≥ 0.

    Raises:
        SweepError: the margin is out of its range.
    """

    def __init__(self, problem: Problem, margin: float) -> None:
        if not (math.isfinite(margin) and margin >= 0):
            raise SweepError(f"bound_margin must be at least 0, not {margin}")
        self._problem, self._margin = problem, margin

    def hopeless(
        self, params: Params, static: Mapping[str, float], done: Sequence[tuple[Params, Sequence[float]]]
    ) -> str | None:
        """Return why a vector cannot reach the front, or None.

        Args:
            params: the candidate.
            static: its static costs.
            done: vectors of finished trials with their objectives' values, in the study's order.
        """
        names = list(self._problem.objectives)
        signs = [1 if way == "minimize" else -1 for way in self._problem.objectives.values()]
        milder = [values for other, values in done if is_milder(self._problem.space, other, params)]
        if not milder or not any(name in static for name in names):
            return None
        optimistic = [
            sign * static[name] if name in static else max(sign * values[column] for values in milder) - self._margin
            for column, (name, sign) in enumerate(zip(names, signs, strict=True))
        ]
        for _, values in done:
            own = [sign * value for sign, value in zip(signs, values, strict=True)]
            if all(o <= p for o, p in zip(own, optimistic, strict=True)) and own != optimistic:
                reached = ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
                return f"a finished trial ({reached}) beats what it can reach at best"
        return None


def is_milder(space: Space, one: Params, other: Params) -> bool:
    """Tell whether no knob is turned further in one vector than in another; of choices only the same or the neutral."""
    return all(_is_milder(domain, one[name], other[name]) for name, domain in space.items())


def _is_milder(domain: Domain, one: Value, other: Value) -> bool:
    if one == other or one == domain.neutral:
        return True
    if isinstance(domain, Choice) and not _is_ordered(domain):
        return False
    neutral, a, b = (_number(value) for value in (domain.neutral, one, other))
    return min(neutral, b) <= a <= max(neutral, b)


def _is_ordered(domain: Choice) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain.values)


def _number(value: Any) -> float:
    return float(value)
