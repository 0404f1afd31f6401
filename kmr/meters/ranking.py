"""Qualities of a ranking: areas under the ROC curve, and neighbours of embeddings."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from kmr.core import KMRError, Reading, Task
from kmr.meters.class_counts import MOST_CLASSES
from kmr.meters.prediction import PredictionQuality
from kmr.meters.predictions import SampleStatistics, ScoredBatch
from kmr.meters.statistics import by_group, smallest
from kmr.tasks import ClassScores, Embedding, LabelScores, VectorScores


@final
@dataclass(frozen=True, kw_only=True)
class AUROC(PredictionQuality):
    """The area under the ROC curve of each class against the others, or of each label, averaged over those that occur.

    Unit: fraction. Range: [0, 1]. Direction: maximize. Source: Hanley & McNeil 1982; of several classes one against
    the rest.

    It is the probability that a sample of the class gets a higher score than another one. Two classes are read as one:
    that of the second. The standard error is that of DeLong et al. 1988, over groups where the split has them.

    Args:
        data: the split, or a view of it.
    """

    name: str = "auroc"
    unit: str = field(init=False, default="fraction")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return, for each class or label, whether it is the target (−1: not known) and its score, (samples, 2k)."""
        seen = self.needs(batch, ClassScores, LabelScores)
        if isinstance(seen, LabelScores):
            true = torch.where(seen.counted, seen.targets, -1)
            return torch.cat([true.double(), seen.logits.double()], 1)
        one_each = len(seen.sample) == seen.samples and bool(
            (seen.sample == seen.sample.new_tensor(range(seen.samples))).all()
        )
        if not one_each or seen.classes > MOST_CLASSES:
            raise KMRError(
                f"meter {self.name} reads one class of at most {MOST_CLASSES} for each sample; this split has several "
                "targets a sample, or more classes: use accuracy or f1"
            )
        scores = F.softmax(seen.logits.double(), dim=1)
        true = F.one_hot(seen.targets, seen.classes).double()
        first = 1 if seen.classes == 2 else 0
        return torch.cat([true[:, first:], scores[:, first:]], 1)

    def value(self, rows: Tensor) -> float:
        return self._areas(rows)[0]

    def stderr(self, seen: SampleStatistics) -> float | None:
        pulls = self._areas(seen.rows)[1]
        return float(by_group(pulls[:, None], seen.groups).square().sum().sqrt())

    def _areas(self, rows: Tensor) -> tuple[float, Tensor]:
        """Return the mean area, and how far each sample pulls it, (samples,)."""
        areas, pulls = [], torch.zeros(len(rows), dtype=torch.float64)
        for true, scores in zip(*(part.T for part in rows.tensor_split(2, dim=1)), strict=True):
            yes, no = torch.nonzero(true == 1).flatten(), torch.nonzero(true == 0).flatten()
            if not len(yes) or not len(no):
                continue
            # Ranks among all less those among its own kind count the samples of the other kind below.
            every = _ranks(scores[torch.cat([yes, no])])
            below = (every[: len(yes)] - _ranks(scores[yes])) / len(no)
            above = 1 - (every[len(yes) :] - _ranks(scores[no])) / len(yes)
            areas.append(float(below.mean()))
            pulls[yes] += (below - areas[-1]) / len(yes)
            pulls[no] += (above - areas[-1]) / len(no)
        if not areas:
            raise KMRError(f"meter {self.name} is undefined: no class has samples both in it and out of it")
        return math.fsum(areas) / len(areas), pulls / len(areas)


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each score from 1; equal scores share the mean of their ranks."""
    places, counts = torch.unique(scores, return_inverse=True, return_counts=True)[1:]
    middles: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()
    return middles[places]


@final
@dataclass(frozen=True, kw_only=True)
class RecallAtK(PredictionQuality):
    """The share of samples with a sample of the same target among the `k` nearest others, by cosine.

    Unit: fraction. Range: [0, 1]. Direction: maximize. Source: Jégou et al. 2011; as in Musgrave et al. 2020.

    Samples whose target no other sample has do not count. The standard error is √(p(1−p)/n).

    Args:
        data: the split, or a view of it.
        k: the number of neighbours, at least 1.
    """

    fits: ClassVar[tuple[type[Task], ...]] = (Embedding,)
    k: int = 1
    name: str = "recall_at_k"
    unit: str = field(init=False, default="fraction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise KMRError(f"k must be at least 1, not {self.k}")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return the sample's number, its target and its vector, of length 1, (samples, 2 + dimensions)."""
        seen = self.needs(batch, VectorScores)
        if seen.targets is None or seen.targets.shape != (seen.samples,):
            raise KMRError(
                f"meter {self.name} needs one number for each sample as its target: those alike belong together"
            )
        number = batch.number * 2**32 + torch.arange(seen.samples, dtype=torch.float64)
        vectors = F.normalize(seen.vectors.double(), dim=1).cpu()
        return torch.cat([number[:, None], seen.targets.double().cpu()[:, None], vectors], 1)

    def value(self, rows: Tensor) -> float:
        hits = self._hits(rows)
        return float(hits.double().mean())

    def read(self, seen: SampleStatistics) -> Reading:
        hits = self._hits(seen.rows).double()
        share = float(hits.mean())
        return Reading(share, math.sqrt(share * (1 - share) / len(hits)) or smallest(len(hits)))

    def _hits(self, rows: Tensor) -> Tensor:
        """Return whether each sample that counts has a sample of its kind among its neighbours."""
        found = []
        for part in torch.split(rows, 512):
            other = part[:, :1] != rows[:, 0][None]  # a bootstrap sample may have a sample twice
            alike = (part[:, 1:2] == rows[:, 1][None]) & other
            near = (part[:, 2:] @ rows[:, 2:].T).masked_fill(~other, -torch.inf)
            nearest = near.topk(min(self.k, len(rows) - 1), dim=1).indices if len(rows) > 1 else near[:, :0].long()
            found.append(alike.gather(1, nearest).any(1)[alike.any(1)])
        hits = torch.cat(found)
        if not len(hits):
            raise KMRError(f"meter {self.name} is undefined: no two samples have the same target")
        return hits
