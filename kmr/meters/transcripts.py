"""Qualities of predicted texts: word and character error rates."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from kmr.core import Direction
from kmr.meters.prediction import MeanQuality
from kmr.meters.predictions import ScoredBatch
from kmr.tasks import TextScores


@dataclass(frozen=True, kw_only=True)
class _ErrorRate(MeanQuality):
    """The edits that turn the predicted texts into the true ones, per part of the true texts."""

    unit: str = field(init=False, default="1")
    direction: Direction = field(init=False, default="minimize")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return edits and the length of the true text, (samples, 2)."""
        seen = self.needs(batch, TextScores)
        pairs = [(self.parts(text), self.parts(true)) for text, true in zip(seen.outputs, seen.targets, strict=True)]
        return torch.tensor([[edits(text, true), len(true)] for text, true in pairs], dtype=torch.float64)

    @abstractmethod
    def parts(self, text: str) -> Sequence[str]:
        """Return what is counted of a text."""


@final
@dataclass(frozen=True, kw_only=True)
class WordErrorRate(_ErrorRate):
    """Inserted, deleted and replaced words over the number of true words.

    Unit: 1. Range: [0, ∞). Direction: minimize. Source: Morris et al. 2004; Levenshtein 1966.

    Args:
        data: the split, or a view of it.
    """

    name: str = "wer"

    def parts(self, text: str) -> Sequence[str]:
        return text.split()


@final
@dataclass(frozen=True, kw_only=True)
class CharacterErrorRate(_ErrorRate):
    """Inserted, deleted and replaced characters over the number of true characters.

    Unit: 1. Range: [0, ∞). Direction: minimize. Source: Morris et al. 2004; Levenshtein 1966.

    Args:
        data: the split, or a view of it.
    """

    name: str = "cer"

    def parts(self, text: str) -> Sequence[str]:
        return text


def edits(text: Sequence[str], true: Sequence[str]) -> int:
    """Return the smallest number of insertions, deletions and replacements between two sequences (Levenshtein 1966)."""
    row = list(range(len(true) + 1))
    for place, part in enumerate(text, 1):
        before, row[0] = row[0], place
        for column, other in enumerate(true, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (part != other))
    return row[-1]
