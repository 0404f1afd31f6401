"""Faithfulness of a compressed model to the original, and quality beyond the overall accuracy.

`Agreement` counts unchanged predictions, `KLDivergence` measures how far probabilities moved. The meters here ask
whether the changes follow a pattern (`ChiSquaredP`), measure calibration (`ExpectedCalibrationError`), and read the
subsets that a good average hides (`WorstClassAccuracy`, `WorstGroupAccuracy`,
`AccuracyDegradationFactor`). All are qualities.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import Direction, KMRError, Reading
from kmr.meters.class_counts import class_counts, counted
from kmr.meters.original import ToOriginal
from kmr.meters.prediction import PredictionQuality
from kmr.meters.predictions import Predictions, SampleStatistics, ScoredBatch
from kmr.meters.statistics import smallest
from kmr.tasks import ClassScores


@dataclass(frozen=True, kw_only=True)
class ChiSquaredP(ToOriginal):
    """The p value of Bowker's chi-squared symmetry test on the contingency table (original's class, model's class).

    Unit: 1. Range: [0, 1]. Direction: maximize. Source: Bowker 1948; for two classes McNemar 1947.

    The table counts how often the original's class i became class j. Under random changes, i → j is as frequent as
    j → i, and Σ_{i<j} (n_ij − n_ji)² / (n_ij + n_ji) is chi-squared with one degree of freedom for each pair of classes
    that changed. A small p indicates a systematic change; without any change p is 1.
    """

    name: str = "chi_squared_p"
    unit: str = field(init=False, default="1")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return the number of classes and, for each entry, its cell of the table, numbered from 1."""
        mine, original = self.pair(batch)
        cells = mine.each(lambda one, _, two: two.argmax(1) * mine.classes + one.argmax(1) + 1, original).cpu()
        counts = torch.bincount(mine.sample.cpu(), minlength=mine.samples)
        rows = torch.zeros(mine.samples, int(counts.max()) + 1 if len(counts) else 1, dtype=torch.float64)
        places = torch.arange(len(cells)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        rows[mine.sample.cpu(), places + 1] = cells.double()
        rows[:, 0] = mine.classes
        return rows

    def value(self, rows: Tensor) -> float:
        classes = int(rows[0, 0])
        cells, counts = rows[:, 1:][rows[:, 1:] > 0].long().sub(1).unique(return_counts=True)  # type: ignore[no-untyped-call]
        table = {int(cell): int(count) for cell, count in zip(cells, counts, strict=True)}
        pairs = {tuple(sorted(divmod(cell, classes))) for cell in table if cell // classes != cell % classes}
        both = [(table.get(i * classes + j, 0), table.get(j * classes + i, 0)) for i, j in pairs]
        if not both:
            return 1.0
        statistic = sum((one - other) ** 2 / (one + other) for one, other in both)
        half = torch.tensor(len(both) / 2, dtype=torch.float64)
        return float(torch.special.gammaincc(half, torch.tensor(statistic / 2, dtype=torch.float64)))

    def stderr(self, seen: SampleStatistics) -> float | None:
        """Return None: a p value is no estimate of a quantity."""
        return None


@dataclass(frozen=True, kw_only=True)
class ExpectedCalibrationError(PredictionQuality):
    """The mean gap between confidence and accuracy over equal bins of confidence.

    Unit: fraction. Range: [0, 1]. Direction: minimize. Source: Guo et al. 2017.

    Each bin is weighted by its number of predictions.

    Args:
        data: the split, or a view of it.
        bins: the number of bins of equal width in [0, 1].
    """

    bins: int = 15
    name: str = "ece"
    unit: str = field(init=False, default="fraction")
    direction: Direction = field(init=False, default="minimize")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return the number of predictions and the sum of gaps in each bin, (samples, 1 + bins)."""
        if self.bins < 1:
            raise KMRError(f"bins must be at least 1, not {self.bins}")
        seen = self.needs(batch, ClassScores)
        confidence = seen.each(lambda logits, _: F.softmax(logits.double(), dim=1).amax(1)).cpu()
        hits = seen.each(lambda logits, targets: (logits.argmax(1) == targets).double()).cpu()
        bins = (confidence * self.bins).ceil().long().clamp(1, self.bins)
        rows = torch.zeros(seen.samples, self.bins + 1, dtype=torch.float64)
        sample = seen.sample.cpu()
        rows.index_put_(
            (sample, torch.zeros_like(sample)), torch.ones(len(sample), dtype=torch.float64), accumulate=True
        )
        rows.index_put_((sample, bins), hits - confidence, accumulate=True)
        return rows

    def value(self, rows: Tensor) -> float:
        sums = rows.sum(0)
        return float(sums[1:].abs().sum() / sums[0])


@dataclass(frozen=True, kw_only=True)
class WorstClassAccuracy(PredictionQuality):
    """The lowest accuracy on any class that occurs; its standard error is √(p(1−p)/n).

    Unit: fraction. Range: [0, 1]. Direction: maximize.

    The minimum of noisy values is biased downwards, so the reading is pessimistic if a class has few samples.
    """

    name: str = "worst_class_accuracy"
    unit: str = field(init=False, default="fraction")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        return class_counts(self.needs(batch, ClassScores))

    def value(self, rows: Tensor) -> float:
        return self._worst(rows)[0]

    def stderr(self, seen: SampleStatistics) -> float | None:
        value, count = self._worst(seen.rows)
        return math.sqrt(value * (1 - value) / count)

    def read(self, seen: SampleStatistics) -> Reading:
        value, count = self._worst(seen.rows)
        return Reading(value, math.sqrt(value * (1 - value) / count) or smallest(count))

    def _worst(self, rows: Tensor) -> tuple[float, int]:
        hits, counts, _ = counted(rows)
        shares = torch.where(counts > 0, hits / counts.clamp(min=1), torch.inf)
        worst = int(shares.argmin())
        return float(shares[worst]), int(counts[worst])


@dataclass(frozen=True, kw_only=True)
class WorstGroupAccuracy(PredictionQuality):
    """The lowest accuracy on any subgroup of the split; its standard error is √(p(1−p)/n).

    Unit: fraction. Range: [0, 1]. Direction: maximize. Source: Sagawa et al. 2020.

    Args:
        data: the split, or a view of it, with `subgroups`.
    """

    name: str = "worst_group_accuracy"
    unit: str = field(init=False, default="fraction")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return the subgroup, hits and predictions, (samples, 3)."""
        seen = self.needs(batch, ClassScores)
        if batch.subgroups is None:
            raise KMRError(f"meter {self.name} needs the subgroup of each sample: return subgroups with the data")
        hits = seen.per_sample(seen.each(lambda logits, targets: logits.argmax(1) == targets))
        return torch.cat([batch.subgroups.double()[:, None], hits], 1)

    def value(self, rows: Tensor) -> float:
        return self._worst(rows)[0]

    def read(self, seen: SampleStatistics) -> Reading:
        value, samples = self._worst(seen.rows)
        return Reading(value, math.sqrt(value * (1 - value) / samples) or smallest(samples))

    def _worst(self, rows: Tensor) -> tuple[float, int]:
        found = []
        for group in torch.unique(rows[:, 0]):
            inside = rows[rows[:, 0] == group]
            if inside[:, 2].sum() > 0:
                found.append((float(inside[:, 1].sum() / inside[:, 2].sum()), len(inside)))
        return min(found)


@dataclass(frozen=True, kw_only=True)
class AccuracyDegradationFactor(PredictionQuality):
    """The number of times the data can be halved into contiguous blocks before the worst block loses accuracy.

    Unit: halvings. Range: [0, ∞). Direction: maximize.

    The accuracy-degradation profile is the lowest accuracy among 1, 2, 4, … contiguous blocks, in the split's order.
    The factor is the number of halvings up to which the worst block stays within `drop` of the overall accuracy.
    Halving stops before blocks have fewer than `fewest` samples.

    Args:
        data: the split, or a view of it.
        drop: the accuracy that a block may lose, in (0, 1).
        fewest: the smallest block size; smaller blocks lose as much by chance.
    """

    drop: float = 0.1
    fewest: int = 50
    name: str = "accuracy_degradation_factor"
    unit: str = field(init=False, default="halvings")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        seen = self.needs(batch, ClassScores)
        return seen.per_sample(seen.each(lambda logits, targets: logits.argmax(1) == targets))

    def value(self, rows: Tensor) -> float:
        if not 0 < self.drop < 1 or self.fewest < 1:
            raise KMRError(f"drop must be in (0, 1) and fewest at least 1, not {self.drop} and {self.fewest}")
        profile = self.profile(rows)
        kept = [worst >= profile[0] - self.drop - 1e-12 for worst in profile]
        return float(([*kept, False]).index(False) - 1)

    def stderr(self, seen: SampleStatistics) -> float | None:
        """Return None: the factor depends on the order of the samples, which resampling destroys."""
        return None

    def profile_of(self, model: nn.Module) -> list[float]:
        """Return a model's profile on the meter's data, in evaluation mode."""
        was = model.training
        try:
            return self.profile(Predictions.of(self.data).fold(model.eval(), [self])[self.name].rows)
        finally:
            model.train(was)

    def profile(self, rows: Tensor) -> list[float]:
        """Return the lowest accuracy among 1, 2, 4, … blocks of rows (hits, predictions), (n, 2)."""
        hits = rows[:, 0] / rows[:, 1].clamp(min=1)
        found, blocks = [float(hits.mean())], 2
        while len(hits) // blocks >= self.fewest:
            found.append(min(float(part.mean()) for part in hits.tensor_split(blocks)))
            blocks *= 2
        return found
