"""Distillation of what lies inside: hints with learned projections, and attention transfer.

A hint compares features through a projection that is trained along and thrown away (FitNets, Romero et al. 2015).
Attention transfer compares where features are large, which needs no projection (Zagoruyko & Komodakis 2017).
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.finetune import Batch, Guidance, Guide
from kmr.instantiations.distillation.features import checked_pairs, features_of, tapped
from kmr.instantiations.distillation.losses import attention, hint, same_places
from kmr.instantiations.distillation.teachers import named_teachers


@dataclass(frozen=True, kw_only=True, eq=False)
class _Features(Guide):
    """Add weight · Σ distance(student feature, teacher feature) over pairs of modules.

    Args:
        teacher: a model, or None for the model before it was compressed.
        pairs: {path in the student: path in the teacher}; empty pairs the stages of the same name.
        count: how many of the pairs to use, the deepest ones; None uses all.
        weight: factor of the added loss.
    """

    teacher: nn.Module | None = field(default=None, repr=False)
    pairs: Mapping[str, str] = field(default_factory=dict)
    count: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0 or (self.count is not None and self.count < 1):
            raise KMRError(f"features need a weight >= 0 and a count >= 1, not {self.weight} and {self.count}")

    @abstractmethod
    def projections(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> nn.ModuleList:
        """Return what turns each student feature into one to compare with the teacher's, by examples of both."""

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare two features."""

    @contextmanager
    def attach(self, model: nn.Module, data: Split, original: nn.Module | None) -> Iterator[Guidance]:
        """Return the guidance of one training."""
        (teacher,) = named_teachers(self.teacher, original).values()
        example = data.first_inputs(2)
        pairs = checked_pairs(self.pairs, self.count, model, teacher, example)
        ours = features_of(model, list(pairs), example)
        theirs = features_of(teacher, list(pairs.values()), example)
        device = next(iter(ours.values())).device
        projections = self.projections(ours, {path: theirs[pairs[path]] for path in pairs}).to(device)
        with tapped(model, list(pairs)) as seen:
            yield _Compared(self, teacher, pairs, seen, projections, tuple(projections.parameters()))


@dataclass(eq=False)
class _Compared(Guidance):
    settings: _Features
    teacher: nn.Module
    pairs: Mapping[str, str]
    seen: Mapping[str, Tensor]
    projections: nn.ModuleList
    parameters: Sequence[nn.Parameter] = ()

    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return the loss and what the features are apart."""
        theirs = features_of(self.teacher, list(self.pairs.values()), batch.inputs)
        for (ours, other), projection in zip(self.pairs.items(), self.projections, strict=True):
            student, teacher = same_places(self.seen[ours], theirs[other])
            loss = loss + self.settings.weight * self.settings.distance(projection(student), teacher)
        return loss


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Hints(_Features):
    """Add weight · Σ ‖projection(student feature) − teacher feature‖² / ‖teacher feature‖²; projections are learned.

    A projection is linear over channels: a 1 × 1 convolution of features (n, channels, places…), a linear layer of
    those that end with their channels (n, channels) or, with `channels_last`, (n, length, channels).

    Args:
        channels_last: features of three dimensions end with their channels, as those of transformers do.
    """

    channels_last: bool = True

    def projections(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> nn.ModuleList:
        """Return one linear map over channels for each pair."""
        made: list[nn.Module] = []
        for path, feature in student.items():
            other = teacher[path]
            if feature.dim() != other.dim() or feature.dim() < 2:
                raise KMRError(f"the features at {path} have shapes {tuple(feature.shape)} and {tuple(other.shape)}")
            if feature.dim() == 2 or (feature.dim() == 3 and self.channels_last):
                made.append(nn.Linear(feature.shape[-1], other.shape[-1]))
            else:
                kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[feature.dim() - 3]
                made.append(kind(feature.shape[1], other.shape[1], 1))
        return nn.ModuleList(made)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the relative mean squared difference."""
        return hint(student, teacher)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionTransfer(_Features):
    """Add weight · Σ of the mean squared differences between attention maps, of features (n, channels, places…)."""

    weight: float = 1000.0

    def projections(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> nn.ModuleList:
        """Return nothing to learn: maps have no channels."""
        flat = [path for path, feature in student.items() if feature.dim() < 3]
        if flat:
            raise KMRError(f"attention transfer needs features with places, which {', '.join(flat)} has not")
        return nn.ModuleList(nn.Identity() for _ in student)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare two attention maps."""
        return attention(student, teacher)
