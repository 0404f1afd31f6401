"""Qualities that compare predictions with those of the original model."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import Direction, KMRError
from kmr.data.structures import moved
from kmr.meters.prediction import MeanQuality, PredictionQuality
from kmr.meters.predictions import ScoredBatch
from kmr.tasks import ClassScores, LabelScores, Scores, VectorScores, quiet

_KEPT = 16e6
"""The limit in bytes up to which the original's scores on a split are kept; above it, the original runs along."""


@dataclass(frozen=True, kw_only=True)
class ToOriginal(PredictionQuality):
    """A quality relative to the original model, which runs on the same batches.

    The original's outputs on data in memory are kept if they are small; otherwise the original runs along with the
    model, so that no more than a batch of outputs is held.

    Args:
        data: the split, or a view of it.
        original: the original model.
    """

    original: nn.Module = field(repr=False, compare=False)

    def reference(self, batch: ScoredBatch) -> Scores:
        """Return the original's scores on a batch."""
        kept = self.view.references(self.original)
        device = _device(batch.scores)
        if (batch.number, device) in kept:
            return kept[batch.number, device]
        if id(self.original) in batch.references:
            return batch.references[id(self.original)]
        with quiet(self.original):
            task = batch.task
            outputs = moved(task.outputs(task.call(self.original, batch.inputs)), device)
            found: Scores = task.scores(outputs, batch.targets)
        split = self.view.split
        if split.in_memory and _bytes(found) * split.steps <= _KEPT:
            kept[batch.number, device] = found
        batch.references[id(self.original)] = found
        return found

    def pair(self, batch: ScoredBatch) -> tuple[ClassScores, ClassScores]:
        """Return the model's and the original's scores of classes; raise `KMRError` if they do not fit each other."""
        mine, original = self.needs(batch, ClassScores), self.reference(batch)
        assert isinstance(original, ClassScores)
        if mine.all_logits.shape != original.all_logits.shape:
            raise KMRError(
                f"meter {self.name}: the model has {mine.classes} classes, the original {original.classes}"
                if mine.classes != original.classes
                else f"meter {self.name}: the model and the original differ in their number of predictions"
            )
        return mine, original


@dataclass(frozen=True, kw_only=True)
class Agreement(ToOriginal, MeanQuality):
    """The share of predictions with the same class, or label, as the original model's, whatever the target.

    Unit: fraction. Range: [0, 1]. Direction: maximize.

    Predictions whose target is ignored do not count.

    Args:
        data: the split, or a view of it.
        original: the original model.
    """

    name: str = "agreement"
    unit: str = field(init=False, default="fraction")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        if isinstance(batch.scores, LabelScores):
            original = self.reference(batch)
            assert isinstance(original, LabelScores)
            return batch.scores.per_sample((batch.scores.logits > 0) == (original.logits > 0))
        mine, other = self.pair(batch)
        return mine.per_sample(mine.each(lambda one, _, two: one.argmax(1) == two.argmax(1), other))


@dataclass(frozen=True, kw_only=True)
class KLDivergence(ToOriginal, MeanQuality):
    """The mean Kullback-Leibler divergence KL(original ‖ model) of the predicted distributions.

    Unit: nat. Range: [0, ∞). Direction: minimize. Source: Kullback and Leibler 1951.

    The standard error assumes independent samples, as for `Accuracy`.
    """

    name: str = "kl"
    unit: str = field(init=False, default="nat")
    direction: Direction = field(init=False, default="minimize")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        mine, original = self.pair(batch)
        return mine.per_sample(mine.each(_divergence, original))


@dataclass(frozen=True, kw_only=True)
class CosineSimilarity(ToOriginal, MeanQuality):
    """The mean cosine between the model's vector and the original's.

    Unit: 1. Range: [−1, 1]. Direction: maximize.
    """

    name: str = "cosine"
    unit: str = field(init=False, default="1")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        mine, original = self.needs(batch, VectorScores), self.reference(batch)
        assert isinstance(original, VectorScores)
        if mine.vectors.shape != original.vectors.shape:
            raise KMRError(
                f"vectors have shape {tuple(mine.vectors.shape)}, the original's {tuple(original.vectors.shape)}"
            )
        cosines = F.cosine_similarity(mine.vectors.double(), original.vectors.double(), dim=1).cpu()
        return torch.stack([cosines, torch.ones_like(cosines)], 1)


def _divergence(mine: Tensor, _: Tensor, original: Tensor) -> Tensor:
    """Return KL(original ‖ mine) of rows of logits."""
    ours, theirs = (F.log_softmax(logits.double(), dim=1) for logits in (mine, original))
    return (theirs.exp() * (theirs - ours)).sum(dim=1).clamp(min=0.0)


def _device(scores: Scores) -> torch.device:
    """Return the device of the model's predictions; the original may be on another."""
    return next((part.device for part in vars(scores).values() if isinstance(part, Tensor)), torch.device("cpu"))


def _bytes(scores: Scores) -> float:
    parts = [part for part in vars(scores).values() if isinstance(part, Tensor)]
    return float(sum(part.numel() * part.element_size() for part in parts))
