"""Qualities of regression: errors of predicted numbers."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from kmr.core import Direction, KMRError, Reading
from kmr.meters.prediction import Outputs, _PredictionQuality


@dataclass(frozen=True, kw_only=True)
class R2(_PredictionQuality):
    """The coefficient of determination 1 − Σ(y − ŷ)² / Σ(y − ȳ)², pooled over outputs, each with its own mean.

    Unit: 1. Range: (−∞, 1]. Direction: maximize. Source: Wright 1921.

    The standard error comes from the delete-one jackknife over samples (Efron & Tibshirani, 1993, §11).
    """

    name: str = "r2"
    unit: str = field(init=False, default="1")

    def read(self, seen: Outputs) -> Reading:
        errors, targets = _residuals(seen)
        count = len(targets)
        deviations = (targets - targets.mean(dim=0)).square().sum(dim=1)
        squares = errors.square().sum(dim=1)
        spread = deviations.sum()
        if spread == 0:
            raise KMRError("R² is undefined: all targets of the split are the same")
        value = float(1 - squares.sum() / spread)
        if count < 3:
            return Reading(value)
        # Leaving out sample i moves the mean, so the total loses n/(n−1) times the sample's deviation.
        left_spread = spread - deviations * count / (count - 1)
        if bool((left_spread <= 0).any()):
            return Reading(value)
        left = 1 - (squares.sum() - squares) / left_spread
        variance = (count - 1) / count * (left - left.mean()).square().sum()
        return Reading(value, float(variance.sqrt()))


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(_PredictionQuality):
    """The mean squared error over samples and outputs, with the standard error of the mean over samples.

    Unit: squared target unit. Range: [0, ∞). Direction: minimize.
    """

    name: str = "mse"
    unit: str = field(init=False, default="squared target unit")
    direction: Direction = field(init=False, default="minimize")

    def read(self, seen: Outputs) -> Reading:
        return _mean_over_samples(_residuals(seen)[0].square())


@dataclass(frozen=True, kw_only=True)
class MeanAbsoluteError(_PredictionQuality):
    """The mean absolute error over samples and outputs, with the standard error of the mean over samples.

    Unit: target unit. Range: [0, ∞). Direction: minimize.
    """

    name: str = "mae"
    unit: str = field(init=False, default="target unit")
    direction: Direction = field(init=False, default="minimize")

    def read(self, seen: Outputs) -> Reading:
        return _mean_over_samples(_residuals(seen)[0].abs())


def _mean_over_samples(losses: Tensor) -> Reading:
    """Return the mean of losses (n, outputs), with its standard error if there are at least two samples."""
    each = losses.mean(dim=1)
    return Reading(float(each.mean()), float(each.std() / math.sqrt(len(each))) if len(each) > 1 else None)


def _residuals(seen: Outputs) -> tuple[Tensor, Tensor]:
    """Return errors and targets as (n, outputs) in double precision."""
    outputs, targets = seen.outputs, seen.targets
    if outputs.numel() != targets.numel():
        raise KMRError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    targets = targets.reshape(len(targets), -1).double()
    return outputs.reshape(targets.shape).double() - targets, targets
