"""Faithfulness of a compressed model to the original, and quality beyond the overall accuracy.

`Agreement` counts unchanged predictions. The meters here measure how far probabilities moved (`KLDivergence`), whether
the changes follow a pattern (`ChiSquaredP`), calibration (`ExpectedCalibrationError`), and the subsets that a good
average hides (`WorstClassAccuracy`, `AccuracyDegradationFactor`). All are qualities.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import Direction, KMRError, Reading
from kmr.meters.prediction import (
    IGNORED,
    Outputs,
    _PredictionQuality,
    check_classes,
    check_logits,
    predict,
    share_of,
)


@dataclass(frozen=True, kw_only=True)
class _ToOriginal(_PredictionQuality):
    """A quality that compares predictions with the original model's, which are computed once, at construction."""

    original: Outputs | nn.Module = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.original, nn.Module):
            object.__setattr__(self, "original", predict(self.original, self.data))

    def pair(self, seen: Outputs) -> tuple[Tensor, Tensor]:
        """Return the model's and the original's logits as (predictions, classes), in double precision."""
        assert isinstance(self.original, Outputs)
        mine, original = seen.outputs, self.original.outputs
        if mine.shape != original.shape:
            raise KMRError(f"outputs have shape {tuple(mine.shape)}, the original's {tuple(original.shape)}")
        check_logits(mine)
        return _flat(mine), _flat(original)


@dataclass(frozen=True, kw_only=True)
class KLDivergence(_ToOriginal):
    """The mean Kullback-Leibler divergence KL(original ‖ model) of the predicted distributions.

    Unit: nat. Range: [0, ∞). Direction: minimize. Source: Kullback and Leibler 1951.

    The standard error assumes independent samples, as for `Accuracy`.
    """

    name: str = "kl"
    unit: str = field(init=False, default="nat")
    direction: Direction = field(init=False, default="minimize")

    def read(self, seen: Outputs) -> Reading:
        mine, original = (F.log_softmax(logits, dim=1) for logits in self.pair(seen))
        divergences = (original.exp() * (original - mine)).sum(dim=1).clamp(min=0.0)
        samples = len(seen.outputs)
        return share_of(divergences.reshape(samples, -1), torch.ones(samples, divergences.numel() // samples))


@dataclass(frozen=True, kw_only=True)
class ChiSquaredP(_ToOriginal):
    """The p value of Bowker's chi-squared symmetry test on the contingency table (original's class, model's class).

    Unit: 1. Range: [0, 1]. Direction: maximize. Source: Bowker 1948; for two classes McNemar 1947.

    The table counts how often the original's class i became class j. Under random changes, i → j is as frequent as
    j → i, and Σ_{i<j} (n_ij − n_ji)² / (n_ij + n_ji) is chi-squared with one degree of freedom for each pair of classes
    that changed. A small p indicates a systematic change; without any change p is 1.
    """

    name: str = "chi_squared_p"
    unit: str = field(init=False, default="1")

    def read(self, seen: Outputs) -> Reading:
        mine, original = self.pair(seen)
        classes = mine.shape[1]
        cells = original.argmax(dim=1) * classes + mine.argmax(dim=1)
        table = torch.bincount(cells, minlength=classes * classes).reshape(classes, classes).double()
        changed = (table + table.T).triu(1)
        difference = (table - table.T).triu(1)
        pairs = changed > 0
        statistic = (difference[pairs] ** 2 / changed[pairs]).sum()
        degrees = int(pairs.sum())
        if degrees == 0:
            return Reading(1.0)
        half = torch.tensor(degrees / 2, dtype=torch.float64)
        return Reading(float(torch.special.gammaincc(half, statistic / 2)))


@dataclass(frozen=True, kw_only=True)
class ExpectedCalibrationError(_PredictionQuality):
    """The mean gap between confidence and accuracy over equal bins of confidence.

    Unit: fraction. Range: [0, 1]. Direction: minimize. Source: Guo et al. 2017.

    Each bin is weighted by its number of predictions; logits and targets as for `Accuracy`.

    Args:
        data: the split, or a view of it.
        bins: the number of bins of equal width in [0, 1].
    """

    bins: int = 15
    name: str = "ece"
    unit: str = field(init=False, default="fraction")
    direction: Direction = field(init=False, default="minimize")

    def read(self, seen: Outputs) -> Reading:
        if self.bins < 1:
            raise KMRError(f"bins must be at least 1, not {self.bins}")
        logits, targets = _counted(seen)
        confidence, guess = F.softmax(logits, dim=1).max(dim=1)
        bin_of = (confidence * self.bins).ceil().long().clamp(1, self.bins) - 1
        gap = (guess == targets).double() - confidence
        sums = torch.zeros(self.bins, dtype=torch.float64).index_add_(0, bin_of, gap)
        return Reading(float(sums.abs().sum() / len(gap)))


@dataclass(frozen=True, kw_only=True)
class WorstClassAccuracy(_PredictionQuality):
    """The lowest accuracy on any class that occurs; its standard error is √(p(1−p)/n).

    Unit: fraction. Range: [0, 1]. Direction: maximize.

    The minimum of noisy values is biased downwards, so the reading is pessimistic if a class has few samples. Logits
    and targets as for `Accuracy`.
    """

    name: str = "worst_class_accuracy"
    unit: str = field(init=False, default="fraction")

    def read(self, seen: Outputs) -> Reading:
        logits, targets = _counted(seen)
        classes = logits.shape[1]
        counts = torch.bincount(targets, minlength=classes)
        hits = torch.bincount(targets[logits.argmax(dim=1) == targets], minlength=classes)
        shares = torch.where(counts > 0, hits.double() / counts.clamp(min=1), torch.inf)
        worst = int(shares.argmin())
        value = float(shares[worst])
        return Reading(value, math.sqrt(value * (1 - value) / int(counts[worst])))


@dataclass(frozen=True, kw_only=True)
class AccuracyDegradationFactor(_PredictionQuality):
    """The number of times the data can be halved into contiguous blocks before the worst block loses accuracy.

    Unit: halvings. Range: [0, ∞). Direction: maximize.

    The accuracy-degradation profile is the lowest accuracy among 1, 2, 4, … contiguous blocks, in the split's order.
    The factor is the number of halvings up to which the worst block stays within `drop` of the overall accuracy.
    Halving stops before blocks have fewer than `fewest` samples. Logits and targets as for `Accuracy`.

    Args:
        data: the split, or a view of it.
        drop: the accuracy that a block may lose, in (0, 1).
        fewest: the smallest block size; smaller blocks lose as much by chance.
    """

    drop: float = 0.1
    fewest: int = 50
    name: str = "accuracy_degradation_factor"
    unit: str = field(init=False, default="halvings")

    def read(self, seen: Outputs) -> Reading:
        if not 0 < self.drop < 1 or self.fewest < 1:
            raise KMRError(f"drop must be in (0, 1) and fewest at least 1, not {self.drop} and {self.fewest}")
        logits, targets = _counted(seen)
        profile = self.profile((logits.argmax(dim=1) == targets).double())
        kept = [worst >= profile[0] - self.drop - 1e-12 for worst in profile]
        return Reading(float(([*kept, False]).index(False) - 1))

    def profile_of(self, model: nn.Module) -> list[float]:
        """Return a model's profile on the meter's data, in evaluation mode."""
        was = model.training
        try:
            logits, targets = _counted(self.view(model.eval()))
        finally:
            model.train(was)
        return self.profile((logits.argmax(dim=1) == targets).double())

    def profile(self, hits: Tensor) -> list[float]:
        """Return the lowest accuracy among 1, 2, 4, … blocks of `hits`, (n,) zeros and ones."""
        found, blocks = [float(hits.mean())], 2
        while len(hits) // blocks >= self.fewest:
            found.append(min(float(part.mean()) for part in hits.tensor_split(blocks)))
            blocks *= 2
        return found


def _flat(logits: Tensor) -> Tensor:
    """Return logits (n, classes, …) as (predictions, classes), in double precision."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]).double()


def _counted(seen: Outputs) -> tuple[Any, Any]:
    """Return logits (predictions, classes) and targets of the predictions that are not ignored."""
    targets = check_classes(seen)
    counts = (targets != IGNORED).reshape(-1)
    return _flat(seen.outputs)[counts], targets.reshape(-1)[counts]
