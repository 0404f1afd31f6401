"""AggregateCost and AggregateQuality: weighted sums of several meters (paper, section 6)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kmr.core.errors import KMRError
from kmr.core.meter import Cost, Direction, Meter, Quality, Reading


def _weighted_sum(model: Any, meters: Sequence[Meter], weights: Sequence[float]) -> Reading:
    readings = [meter(model) for meter in meters]
    variance = sum((w * (r.stderr or 0.0)) ** 2 for w, r in zip(weights, readings, strict=True))
    estimated = any(r.stderr is not None for r in readings)
    value = sum(w * r.value for w, r in zip(weights, readings, strict=True))
    return Reading(value, math.sqrt(variance) if estimated else None)


def _check(name: str, meters: Sequence[Meter], weights: Sequence[float]) -> None:
    if not meters or len(meters) != len(weights):
        raise KMRError(f"aggregate {name} has {len(weights)} weights for {len(meters)} meters: give one for each meter")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) == 0:
        raise KMRError(f"aggregate {name} has weights {tuple(weights)}: give numbers >= 0, at least one above 0")


@dataclass(frozen=True, kw_only=True)
class WeightedCost(Cost):
    """AggregateCost: Σ wᵢ·Cᵢ(M); the standard errors add in quadrature."""

    meters: tuple[Cost, ...]
    weights: tuple[float, ...]
    unit: str = field(init=False, default="weighted sum")

    def __post_init__(self) -> None:
        _check(self.name, self.meters, self.weights)

    def read(self, seen: Any) -> Reading:
        return _weighted_sum(seen, self.meters, self.weights)


@dataclass(frozen=True, kw_only=True)
class WeightedQuality(Quality):
    """AggregateQuality: Σ wⱼ·Qⱼ(M); the standard errors add in quadrature.

    The sum is minimised where all its meters are. Otherwise it is maximised, and a meter to minimise is subtracted.
    """

    meters: tuple[Quality, ...]
    weights: tuple[float, ...]
    unit: str = field(init=False, default="weighted sum")

    def __post_init__(self) -> None:
        _check(self.name, self.meters, self.weights)
        way: Direction = "minimize" if all(meter.direction == "minimize" for meter in self.meters) else "maximize"
        object.__setattr__(self, "direction", way)

    def read(self, seen: Any) -> Reading:
        pairs = zip(self.meters, self.weights, strict=True)
        signed = [weight if meter.direction == self.direction else -weight for meter, weight in pairs]
        return _weighted_sum(seen, self.meters, signed)
