"""Predictions with their targets, in the forms that meters read, for one batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_PART = 2**19
"""The number of logits that are read at once: 2 MiB in single precision."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The predictions of one batch.

    Args:
        samples: the number of samples in the batch.
    """

    samples: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassScores(Scores):
    """One class out of several for each entry: a sample, a token or a pixel; ignored entries are left out.

    Logits of a language model are large, so that they are read in place, some entries at a time.

    Args:
        all_logits: (places, classes), those of ignored places included.
        places: the place of each entry, (entries,), or None if every place is an entry.
        targets: class numbers, (entries,).
        sample: the sample of each entry, (entries,).
        weights: the weight of each entry, (entries,); None weighs all alike.
    """

    all_logits: Tensor
    places: Tensor | None
    targets: Tensor
    sample: Tensor
    weights: Tensor | None = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.all_logits.shape[1]

    @property
    def logits(self) -> Tensor:
        """Logits of all entries, (entries, classes), with gradients if the outputs have them."""
        return self.all_logits if self.places is None else self.all_logits[self.places]

    def each(self, function: Callable[..., Tensor], *others: "ClassScores") -> Tensor:
        """Return function(logits, targets, *logits of others) of all entries, (entries,), computed in parts."""
        size = max(1, _PART // self.classes)
        found = []
        for start in range(0, len(self.targets), size):
            part = slice(start, start + size)
            logits = [one._part(part).float() for one in (self, *others)]
            found.append(function(logits[0], self.targets[part], *logits[1:]))
        return torch.cat(found) if found else self.targets.new_zeros(0)

    def _part(self, part: slice) -> Tensor:
        return self.all_logits[part if self.places is None else self.places[part]]

    def per_sample(self, scores: Tensor) -> Tensor:
        """Return the sum of scores (entries,) and of weights for each sample, (samples, 2), in double precision."""
        return _per_sample(scores, self.sample, self.samples, self.weights)


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelScores(Scores):
    """A yes or no for each of several labels.

    Args:
        logits: (entries, labels).
        targets: 0 or 1, (entries, labels).
        counted: whether a target is known, (entries, labels).
        sample: the sample of each entry, (entries,).
        weights: the weight of each entry, (entries,); None weighs all alike.
    """

    logits: Tensor
    targets: Tensor
    counted: Tensor
    sample: Tensor
    weights: Tensor | None = None

    def per_sample(self, scores: Tensor) -> Tensor:
        """Return the sum of scores (entries, labels) over known labels, and their number, (samples, 2)."""
        counted = self.counted.double() if self.weights is None else self.counted * self.weights.double()[:, None]
        sums = torch.stack([(scores.double() * counted).sum(1), counted.sum(1)], 1)
        return torch.zeros(self.samples, 2, dtype=torch.float64).index_add_(0, self.sample.cpu(), sums.cpu())


@dataclass(frozen=True, eq=False, kw_only=True)
class NumberScores(Scores):
    """Numbers: outputs and targets of one shape (samples, values), in double precision.

    Args:
        outputs: (samples, values).
        targets: (samples, values).
        weights: the weight of each sample, (samples,); None weighs all alike.
    """

    outputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def per_sample(self, scores: Tensor) -> Tensor:
        """Return the sum of scores (samples, values) and their number, (samples, 2)."""
        count = torch.full((self.samples,), scores.shape[1], dtype=torch.float64)
        sums = torch.stack([scores.double().sum(1).cpu(), count], 1)
        return sums if self.weights is None else sums * self.weights.double().cpu()[:, None]


@dataclass(frozen=True, eq=False, kw_only=True)
class VectorScores(Scores):
    """Embeddings.

    Args:
        vectors: (samples, dimensions).
        targets: class numbers or other labels of the samples, (samples,), or None.
    """

    vectors: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxScores(Scores):
    """Detected and true boxes for each sample, as dicts of `boxes`, `labels` and, of detections, `scores`."""

    outputs: list[dict[str, Tensor]]
    targets: list[dict[str, Tensor]]


@dataclass(frozen=True, eq=False, kw_only=True)
class TextScores(Scores):
    """Predicted and true texts, one for each sample."""

    outputs: list[str]
    targets: list[str]


def _per_sample(scores: Tensor, sample: Tensor, samples: int, weights: Tensor | None) -> Tensor:
    counts = torch.ones(len(scores), dtype=torch.float64) if weights is None else weights.double().cpu()
    sums = torch.stack([scores.double().cpu() * counts, counts], 1)
    return torch.zeros(samples, 2, dtype=torch.float64).index_add_(0, sample.cpu(), sums)
