"""Mutations of a vector: one knob turned to another value."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kmr.core import Choice, Domain, FloatRange, IntRange, Value
from sweeps.search.space import Space

_FAR = 3
"""Number of random values tried for a range, besides the neighbours of the present value."""


def mutations(space: Space, params: Mapping[str, Value], rng: np.random.Generator) -> list[dict[str, Value]]:
    """Return vectors that differ from the given one in one knob, in random order.

    A choice takes each of its other values; a range takes the neighbours of the present value and a few random values.
    """
    found = [
        {**params, name: value}
        for name, domain in space.items()
        for value in _others(domain, params.get(name, domain.neutral), rng)
    ]
    order = rng.permutation(len(found))
    return [found[i] for i in order]


def random_vector(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """Return a vector sampled uniformly from the space, or log-uniformly in a domain with `log`."""
    return {name: _random(domain, rng) for name, domain in space.items()}


def _others(domain: Domain, value: Value, rng: np.random.Generator) -> list[Value]:
    match domain:
        case Choice(values):
            return [other for other in values if other != value]
        case FloatRange(low, high, _, None):
            width = high - low
            near = float(np.clip(float(value) + rng.normal(0, 0.1) * width, low, high))
            drawn = [near, *(_random(domain, rng) for _ in range(_FAR))]
            return [other for other in dict.fromkeys(drawn) if other != value]
        case FloatRange(low, high, _, step) | IntRange(low, high, _, step):
            count = round((high - low) / (step or 1))
            at = round((float(value) - low) / (step or 1))
            wanted = {at - 1, at + 1, *(int(i) for i in rng.integers(0, count + 1, _FAR))} - {at}
            return [_at(domain, index) for index in sorted(wanted) if 0 <= index <= count]


def _at(domain: FloatRange | IntRange, index: int) -> Value:
    if isinstance(domain, IntRange):
        return domain.low + index * domain.step
    return round(domain.low + index * (domain.step or 0.0), 10)


def _random(domain: Domain, rng: np.random.Generator) -> Value:
    match domain:
        case Choice(values):
            return values[int(rng.integers(len(values)))]
        case FloatRange(low, high, _, None, log):
            if log:
                return float(np.exp(rng.uniform(np.log(low), np.log(high))))
            return float(rng.uniform(low, high))
        case FloatRange(low, high, _, step) | IntRange(low, high, _, step):
            return _at(domain, int(rng.integers(0, round((high - low) / (step or 1)) + 1)))
