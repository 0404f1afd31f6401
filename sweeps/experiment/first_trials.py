"""First trials of a study: knob vectors from a sensitivity scan or another source."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmr.core import Choice, Domain, IntRange, Value
from sweeps.errors import SweepError
from sweeps.search.space import Space


def first_trials(path: str, space: Space) -> list[dict[str, Value]]:
    """Read a JSON list of knob vectors and move each value to the nearest one in the space.

    Args:
        path: the file's path.
        space: the search space; a knob that a vector does not name is neutral.

    Raises:
        SweepError: the file cannot be read, is not a list of vectors, names a knob outside the space, or holds a number
            that is not finite.
    """
    try:
        vectors: Any = json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SweepError(f"first_trials={path} cannot be read: {error}") from error
    if not isinstance(vectors, list) or not all(isinstance(vector, Mapping) for vector in vectors):
        raise SweepError(f"first_trials={path} must hold a list of knob vectors")
    unknown = sorted({name for vector in vectors for name in vector} - space.keys())
    if unknown:
        known = ", ".join(space)
        raise SweepError(f"first_trials={path} names {', '.join(unknown)}, not in the search space: {known}")
    for place, vector in enumerate(vectors):
        for name, value in vector.items():
            if _is_number(value) and not abs(value) <= sys.float_info.max:
                raise SweepError(f"first_trials={path}: {name} of trial {place} must be a finite number, not {value}")
    nearest = [{name: _nearest(d, vector.get(name, d.neutral)) for name, d in space.items()} for vector in vectors]
    return [vector for place, vector in enumerate(nearest) if vector not in nearest[:place]]


def _nearest(domain: Domain, value: Any) -> Value:
    if isinstance(domain, Choice):
        if value in domain.values:
            return next(v for v in domain.values if v == value)
        numbers = [v for v in domain.values if isinstance(v, int | float)]
        return min(numbers, key=lambda v: abs(v - value)) if numbers and _is_number(value) else domain.values[0]
    low, high = domain.low, domain.high
    inside = min(max(float(value) if _is_number(value) else low, low), high)
    step = domain.step
    if step:
        inside = low + step * min(round((inside - low) / step), int((high - low) / step + 1e-9))
    return round(inside) if isinstance(domain, IntRange) else round(inside, 10)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
