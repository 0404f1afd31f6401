"""Qualities from the counts of each class or label: precision, recall, F1 and intersection over union."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor

from kmr.core import KMRError
from kmr.meters.class_counts import class_counts, counted
from kmr.meters.prediction import PredictionQuality
from kmr.meters.predictions import ScoredBatch
from kmr.tasks import ClassScores, LabelScores


@dataclass(frozen=True, kw_only=True)
class ClassQuality(PredictionQuality):
    """A quality of each class or label, averaged.

    Args:
        data: the split, or a view of it.
        average: `macro` averages the classes that occur alike, `weighted` by their number of targets, `micro` counts
            all entries together.
        of: one class or label to read instead of an average.
    """

    average: Literal["macro", "weighted", "micro"] = "macro"
    of: int | None = None
    unit: str = field(init=False, default="fraction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average not in ("macro", "weighted", "micro"):
            raise KMRError(f"{self.name}: average must be macro, weighted or micro, not {self.average!r}")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        seen = self.needs(batch, ClassScores, LabelScores)
        classes = seen.classes if isinstance(seen, ClassScores) else seen.logits.shape[1]
        if self.of is not None and not 0 <= self.of < classes:
            raise KMRError(f"{self.name}: of must be a class from 0 to {classes - 1}, not {self.of}")
        return class_counts(seen)

    def value(self, rows: Tensor) -> float:
        hits, targets, guesses = counted(rows)
        if self.of is not None:
            found = self.share(hits[self.of], targets[self.of], guesses[self.of])
            return 0.0 if math.isnan(float(found)) else float(found)
        if self.average == "micro":
            return float(self.share(hits.sum(), targets.sum(), guesses.sum()).nan_to_num(0.0))
        occur = (targets + guesses) > 0
        shares = self.share(hits, targets, guesses)[occur].nan_to_num(0.0)
        weights = targets[occur] if self.average == "weighted" else torch.ones_like(shares)
        return float((shares * weights).sum() / weights.sum().clamp(min=1e-12))

    @abstractmethod
    def share(self, hits: Tensor, targets: Tensor, guesses: Tensor) -> Tensor:
        """Return the quality of classes from their counts; NaN is undefined and counts as 0."""


@final
@dataclass(frozen=True, kw_only=True)
class Precision(ClassQuality):
    """The share of predictions of a class that are right.

    Unit: fraction. Range: [0, 1]. Direction: maximize.
    """

    name: str = "precision"

    def share(self, hits: Tensor, targets: Tensor, guesses: Tensor) -> Tensor:
        return hits / guesses


@final
@dataclass(frozen=True, kw_only=True)
class Recall(ClassQuality):
    """The share of a class that is found; its macro average is the balanced accuracy.

    Unit: fraction. Range: [0, 1]. Direction: maximize.
    """

    name: str = "recall"

    def share(self, hits: Tensor, targets: Tensor, guesses: Tensor) -> Tensor:
        return hits / targets


@final
@dataclass(frozen=True, kw_only=True)
class F1(ClassQuality):
    """The harmonic mean of precision and recall.

    Unit: fraction. Range: [0, 1]. Direction: maximize. Source: van Rijsbergen 1979.
    """

    name: str = "f1"

    def share(self, hits: Tensor, targets: Tensor, guesses: Tensor) -> Tensor:
        return 2 * hits / (targets + guesses)


@final
@dataclass(frozen=True, kw_only=True)
class IoU(ClassQuality):
    """The intersection over union of a class's predictions and targets (Jaccard index).

    Unit: fraction. Range: [0, 1]. Direction: maximize. Source: Jaccard 1912; the mean over classes as in Everingham et
    al. 2015.
    """

    name: str = "iou"

    def share(self, hits: Tensor, targets: Tensor, guesses: Tensor) -> Tensor:
        return hits / (targets + guesses - hits)
