"""Qualities of regression: errors of predicted numbers."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from kmr.core import Direction, KMRError, Task
from kmr.meters.prediction import MeanQuality, PredictionQuality
from kmr.meters.predictions import SampleStatistics, ScoredBatch
from kmr.meters.statistics import bootstrap, ratio
from kmr.tasks import NumberScores, Regression


@dataclass(frozen=True, kw_only=True)
class R2(PredictionQuality):
    """The coefficient of determination 1 − Σ(y − ŷ)² / Σ(y − ȳ)², pooled over outputs, each with its own mean.

    Unit: 1. Range: (−∞, 1]. Direction: maximize. Source: Wright 1921.

    The standard error comes from the delete-one jackknife over samples (Efron & Tibshirani, 1993, §11); over groups and
    with sample weights, from bootstrap samples.
    """

    fits: ClassVar[tuple[type[Task], ...]] = (Regression,)
    name: str = "r2"
    unit: str = field(init=False, default="1")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        seen = self.needs(batch, NumberScores)
        weights = torch.ones(seen.samples, dtype=torch.float64) if seen.weights is None else seen.weights.double()
        errors = (seen.outputs - seen.targets).square().sum(1)
        return torch.cat([weights.cpu()[:, None], errors.cpu()[:, None], seen.targets.cpu()], 1)

    def value(self, rows: Tensor) -> float:
        weights, squares, targets = rows[:, 0], rows[:, 1], rows[:, 2:]
        mean = (weights[:, None] * targets).sum(0) / weights.sum()
        spread = (weights[:, None] * (targets - mean).square()).sum()
        if spread == 0:
            raise KMRError("R² is undefined: all targets of the split are the same")
        return float(1 - (weights * squares).sum() / spread)

    def stderr(self, seen: SampleStatistics) -> float | None:
        rows, count = seen.rows, len(seen.rows)
        if seen.groups is not None or bool((rows[:, 0] != 1).any()):
            return bootstrap(rows, seen.groups, self._or_nothing)
        squares, targets = rows[:, 1], rows[:, 2:]
        deviations = (targets - targets.mean(dim=0)).square().sum(dim=1)
        if count < 3:
            return None
        # Leaving out sample i moves the mean, so the total loses n/(n−1) times the sample's deviation.
        left_spread = deviations.sum() - deviations * count / (count - 1)
        if bool((left_spread <= 0).any()):
            return None
        left = 1 - (squares.sum() - squares) / left_spread
        variance = (count - 1) / count * (left - left.mean()).square().sum()
        return float(variance.sqrt())

    def _or_nothing(self, rows: Tensor) -> float:
        try:
            return self.value(rows)
        except KMRError:  # a bootstrap sample of equal targets
            return math.nan


@dataclass(frozen=True, kw_only=True)
class _MeanError(MeanQuality):
    """A mean over samples and outputs, with the standard error of the mean over samples."""

    fits: ClassVar[tuple[type[Task], ...]] = (Regression,)
    direction: Direction = field(init=False, default="minimize")

    def stderr(self, seen: SampleStatistics) -> float | None:
        units = len(seen.rows) if seen.groups is None else len(torch.unique(seen.groups))
        return ratio(seen.rows, seen.groups)[1] * math.sqrt(units / (units - 1)) if units > 1 else None


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(_MeanError):
    """The mean squared error over samples and outputs, with the standard error of the mean over samples.

    Unit: squared target unit. Range: [0, ∞). Direction: minimize.
    """

    name: str = "mse"
    unit: str = field(init=False, default="squared target unit")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        seen = self.needs(batch, NumberScores)
        return seen.per_sample((seen.outputs - seen.targets).square())


@dataclass(frozen=True, kw_only=True)
class MeanAbsoluteError(_MeanError):
    """The mean absolute error over samples and outputs, with the standard error of the mean over samples.

    Unit: target unit. Range: [0, ∞). Direction: minimize.
    """

    name: str = "mae"
    unit: str = field(init=False, default="target unit")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        seen = self.needs(batch, NumberScores)
        return seen.per_sample((seen.outputs - seen.targets).abs())
