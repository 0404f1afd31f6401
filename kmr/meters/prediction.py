"""Qualities of predictions, from statistics that each pass keeps of every sample."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from kmr.core import Direction, KMRError, Quality, Reading, Task
from kmr.data import Split
from kmr.meters.predictions import Predictions, SampleStatistics, ScoredBatch
from kmr.meters.statistics import bootstrap, ratio, smallest
from kmr.tasks import ClassScores, LabelScores, Scores

S = TypeVar("S", bound=Scores)
T = TypeVar("T", bound=Scores)


@dataclass(frozen=True, kw_only=True)
class PredictionQuality(Quality):
    """A quality of the predictions on one split.

    A pass over the split keeps `statistics` of every batch, one row for each sample; `value` reads the quality from the
    rows of all batches. Its standard error is that of bootstrap samples of the rows, over groups where the split has
    them.
    """

    fits: ClassVar[tuple[type[Task], ...]] = ()
    """Tasks that the quality is made for, where outputs and targets alone leave a doubt."""
    data: Split | Predictions = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Predictions.of(self.data))

    @property
    def view(self) -> Predictions:
        """The predictions on the split, shared with its other meters."""
        return Predictions.of(self.data)

    @abstractmethod
    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return the rows to keep of a batch, (samples, k)."""

    @abstractmethod
    def value(self, rows: Tensor) -> float:
        """Return the quality of samples from their rows."""

    def stderr(self, seen: SampleStatistics) -> float | None:
        """Return the standard error of the value, or None if it is unknown."""
        return bootstrap(seen.rows, seen.groups, self.value)

    def read(self, seen: SampleStatistics) -> Reading:
        value = self.value(seen.rows)
        error = self.stderr(seen) if len(seen.rows) > 1 else None
        if self.unit == "fraction" and not error:
            error = smallest(_units(seen))
        return Reading(value, error)

    @overload
    def needs(self, batch: ScoredBatch, kind: type[S], /) -> S: ...

    @overload
    def needs(self, batch: ScoredBatch, kind: type[S], other: type[T], /) -> S | T: ...

    def needs(self, batch: ScoredBatch, *kinds: Any) -> Any:
        """Return a batch's scores; raise `KMRError` if the task's scores are of another kind."""
        if not isinstance(batch.scores, kinds):
            raise KMRError(
                f"meter {self.name} does not fit {type(batch.task).__name__}, which takes {_convention(batch)}: choose "
                "another meter, or set task"
            )
        return batch.scores


@dataclass(frozen=True, kw_only=True)
class MeanQuality(PredictionQuality):
    """A mean over entries: rows are sums of scores and of weights, (samples, 2)."""

    def value(self, rows: Tensor) -> float:
        total = rows[:, 1].sum()
        if total == 0:
            raise KMRError(
                f"meter {self.name} has nothing to read: all targets of the split are ignored; check task.ignore_index"
            )
        return float(rows[:, 0].sum() / total)

    def stderr(self, seen: SampleStatistics) -> float | None:
        return ratio(seen.rows, seen.groups)[1]


@dataclass(frozen=True, kw_only=True)
class Accuracy(MeanQuality):
    """The share of predictions whose target is among the `top_k` largest logits; of labels, the share that is right.

    Unit: fraction. Range: [0, 1]. Direction: maximize.

    The standard error is √(p(1−p)/n), or 1/(n + 1) where all samples agree; if a sample has several predictions, it
    assumes independent samples, not predictions.

    Args:
        data: the split, or a view of it.
        top_k: the number of largest logits that count.
    """

    top_k: int = 1
    name: str = "accuracy"
    unit: str = field(init=False, default="fraction")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        seen = self.needs(batch, ClassScores, LabelScores)
        if isinstance(seen, LabelScores):
            return seen.per_sample((seen.logits > 0) == (seen.targets == 1))
        if not 1 <= self.top_k <= seen.classes:
            raise KMRError(f"top_k must be between 1 and the number of classes ({seen.classes}), not {self.top_k}")
        if self.top_k == 1:
            return seen.per_sample(seen.each(lambda logits, targets: logits.argmax(1) == targets))
        return seen.per_sample(
            seen.each(lambda logits, targets: (logits.topk(self.top_k, dim=1).indices == targets[:, None]).any(1))
        )


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(MeanQuality):
    """The mean cross-entropy, for the same predictions as `Accuracy`, with its standard error.

    Unit: nat. Range: [0, ∞). Direction: minimize. Source: Good 1952, the logarithmic score.
    """

    name: str = "cross_entropy"
    unit: str = field(init=False, default="nat")
    direction: Direction = field(init=False, default="minimize")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        return cross_entropies(self.needs(batch, ClassScores, LabelScores))

    def stderr(self, seen: SampleStatistics) -> float | None:
        units = _units(seen)
        return ratio(seen.rows, seen.groups)[1] * math.sqrt(units / (units - 1)) if units > 1 else None


@dataclass(frozen=True, kw_only=True)
class Perplexity(CrossEntropy):
    """The exponential of the mean cross-entropy of tokens.

    Unit: 1. Range: [1, ∞). Direction: minimize. Source: Jelinek et al. 1977.
    """

    name: str = "perplexity"
    unit: str = field(init=False, default="1")

    def value(self, rows: Tensor) -> float:
        return math.exp(min(super().value(rows), 700.0))

    def stderr(self, seen: SampleStatistics) -> float | None:
        error = super().stderr(seen)
        return None if error is None else error * self.value(seen.rows)


@dataclass(frozen=True, kw_only=True)
class BitsPerByte(CrossEntropy):
    """The mean cross-entropy of tokens in bits, per byte of text.

    Unit: bit. Range: [0, ∞). Direction: minimize.

    Args:
        data: the split, or a view of it.
        bytes_per_token: the mean number of bytes that a token stands for; 1 for models of bytes.
    """

    bytes_per_token: float = 1.0
    name: str = "bits_per_byte"
    unit: str = field(init=False, default="bit")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bytes_per_token > 0:
            raise KMRError(f"bytes_per_token must be above 0, not {self.bytes_per_token}")

    def value(self, rows: Tensor) -> float:
        return super().value(rows) * self._scale

    def stderr(self, seen: SampleStatistics) -> float | None:
        error = super().stderr(seen)
        return None if error is None else error * self._scale

    @property
    def _scale(self) -> float:
        return 1 / (math.log(2) * self.bytes_per_token)


def cross_entropies(seen: ClassScores | LabelScores) -> Tensor:
    """Return sums of cross-entropies and of weights for each sample, (samples, 2)."""
    if isinstance(seen, LabelScores):
        targets = seen.targets.double()
        return seen.per_sample(F.binary_cross_entropy_with_logits(seen.logits.double(), targets, reduction="none"))
    return seen.per_sample(
        seen.each(lambda logits, targets: F.cross_entropy(logits.double(), targets, reduction="none"))
    )


def _units(seen: SampleStatistics) -> int:
    """Return the number of independent samples or groups."""
    return len(seen.rows) if seen.groups is None else len(torch.unique(seen.groups))


def _convention(batch: ScoredBatch) -> Any:
    return batch.task.convention
