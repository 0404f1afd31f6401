"""Domains of knobs: the values a knob may take, and the neutral value that leaves a model unchanged."""

import math
from dataclasses import dataclass
from typing import TypeAlias

from kmr.core.errors import KMRError

Value: TypeAlias = float | int | str | bool
"""A knob's value; JSON represents it without loss."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class FloatRange:
    """A range of real values [low, high], on a grid of `step` from `low` when one is given.

    The neutral value may lie outside the range: a search can exclude it while the rule still accepts it.

    Raises:
        KMRError: a bound is not finite, low > high, the step is not positive, or `log` is set with low <= 0.
    """

    low: float
    high: float
    neutral: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.step, self.log)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not _is_number(value):
            return False
        if value == self.neutral:
            return True
        if not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-6)

    def __str__(self) -> str:
        return f"[{self.low}, {self.high}]" + ("" if self.step is None else f" in steps of {self.step}")


@dataclass(frozen=True)
class IntRange:
    """A range of whole numbers: low, low + step, … up to high.

    Raises:
        KMRError: as for `FloatRange`.
    """

    low: int
    high: int
    neutral: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.step, self.log)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not _is_number(value) or value != int(value):
            return False
        return value == self.neutral or (self.low <= value <= self.high and (value - self.low) % self.step == 0)

    def __str__(self) -> str:
        return f"the whole numbers {self.low} to {self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class Choice:
    """A list of values, ordered from the least to the most compressed where an order exists.

    Raises:
        KMRError: the list is empty or repeats a value.
    """

    values: tuple[Value, ...]
    neutral: Value

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise KMRError("a Choice has no values: give at least one")
        if len(set(self.values)) != len(self.values):
            raise KMRError(f"a Choice repeats a value: {self.values}; list each once")

    def __contains__(self, value: object) -> bool:
        return value == self.neutral or value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.values))


Domain: TypeAlias = FloatRange | IntRange | Choice


def _check_bounds(low: float, high: float, step: float | None, log: bool) -> None:
    if not (_is_number(low) and _is_number(high) and low <= high):
        raise KMRError(f"invalid range low={low}, high={high}: the bounds must be finite, with low <= high")
    if step is not None and not (_is_number(step) and step > 0):
        raise KMRError(f"invalid step {step}: the step of a range must be positive")
    if log and low <= 0:
        raise KMRError(f"invalid logarithmic range from {low}: low must be above 0")


def rungs(domain: Domain, levels: int) -> tuple[Value, ...]:
    """Return up to `levels` values of a domain, from the one nearest to neutral to the strongest.

    A range is cut evenly from its neutral end to its other end; a choice gives its values in order, thinned evenly.
    """
    if levels < 1:
        raise KMRError(f"a ladder needs at least one level, not {levels}")
    match domain:
        case Choice():
            values = [value for value in domain.values if value != domain.neutral]
            count = min(levels, len(values))
            return tuple(values[((i + 1) * len(values)) // count - 1] for i in range(count))
        case FloatRange() | IntRange():
            upward = abs(domain.high - domain.neutral) >= abs(domain.neutral - domain.low)
            near = min(max(domain.neutral, domain.low), domain.high)
            far = domain.high if upward else domain.low
            step = domain.step
            cut = [near + (far - near) * (i + 1) / levels for i in range(levels)]
            if step is not None:
                cut = [domain.low + step * round((value - domain.low) / step) for value in cut]
            if isinstance(domain, IntRange):
                return tuple(dict.fromkeys(round(v) for v in cut if round(v) != domain.neutral))
            return tuple(dict.fromkeys(round(v, 10) for v in cut if v != domain.neutral))
