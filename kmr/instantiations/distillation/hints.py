"""Distillation of what lies inside: hints with learned projections, and attention transfer.

A hint compares features through a projection that is trained along and thrown away (FitNets, Romero et al. 2015).
Attention transfer compares where features are large, which needs no projection (Zagoruyko & Komodakis 2017).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs, Split
from kmr.finetune import Batch, Guidance, Guide
from kmr.instantiations.distillation.losses import attention, attention_map, common_places, hint, pooled
from kmr.instantiations.features import checked_pairs, features_of, tapped
from kmr.instantiations.teachers import Lessons, named_teachers


@dataclass(frozen=True, kw_only=True, eq=False)
class _Features(Guide):
    """Add weight · Σ distance(student feature, teacher feature) over pairs of modules.

    Of two features with different numbers of places the finer is averaged down to the coarser.

    Args:
        teacher: a model, or None for the model before it was compressed.
        pairs: {path in the student: path in the teacher}; empty pairs the stages of the same name.
        count: how many of the pairs to use, the deepest ones; None uses all.
        weight: factor of the added loss.
        cache_mb: what is taught of the training split is kept where it takes no more than this. Augmented samples are
            computed anew.
    """

    teacher: nn.Module | None = field(default=None, repr=False)
    pairs: Mapping[str, str] = field(default_factory=dict)
    count: int | None = None
    weight: float = 1.0
    cache_mb: float = 512.0

    def __post_init__(self) -> None:
        if self.weight < 0 or (self.count is not None and self.count < 1):
            raise KMRError(f"features need a weight >= 0 and a count >= 1, not {self.weight} and {self.count}")

    @cached_property
    def _lessons(self) -> Lessons:
        return Lessons(self.cache_mb * 1e6)

    @abstractmethod
    def projections(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> nn.ModuleList:
        """Return what turns each student feature into one to compare with the teacher's, by examples of both."""

    @abstractmethod
    def distance(self, student: Tensor, taught: Tensor) -> Tensor:
        """Compare a student's feature, projected, with what is taught of the teacher's."""

    def taught(self, feature: Tensor) -> Tensor:
        """Return what of a teacher's feature the student is to match."""
        return feature

    def places(self, student: torch.Size, teacher: torch.Size) -> tuple[int, ...] | None:
        """Return the places to average both features to; None leaves them."""
        return common_places(student, teacher)

    @contextmanager
    def attach(self, model: nn.Module, data: Split, original: nn.Module | None) -> Iterator[Guidance]:
        """Return the guidance of one training."""
        (teacher,) = named_teachers(self.teacher, original).values()
        example = data.first_inputs(8)
        pairs = checked_pairs(self.pairs, self.count, model, teacher, example)
        ours = features_of(model, list(pairs), example)
        theirs = features_of(teacher, list(pairs.values()), example)
        device = next(iter(ours.values())).device
        projections = self.projections(ours, {path: theirs[pairs[path]] for path in pairs}).to(device)
        places = {path: self.places(ours[path].shape, theirs[pairs[path]].shape) for path in pairs}

        def says(teacher: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
            features = features_of(teacher, list(pairs.values()), inputs)
            return {path: self.taught(pooled(features[other], places[path])) for path, other in pairs.items()}

        with tapped(model, list(pairs)) as seen:
            what = tuple((path, pairs[path], places[path]) for path in pairs)

            def teach(batch: Batch) -> dict[str, Tensor]:
                return self._lessons.of(teacher, data, batch, says, what)

            yield _Compared(self, teach, places, seen, projections, tuple(projections.parameters()))


@dataclass(eq=False)
class _Compared(Guidance):
    settings: _Features
    teach: Callable[[Batch], dict[str, Tensor]]
    places: Mapping[str, tuple[int, ...] | None]
    seen: Mapping[str, Tensor]
    projections: nn.ModuleList
    parameters: Sequence[nn.Parameter] = ()

    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return the loss and what the features are apart."""
        student = dict(self.seen)
        taught = self.teach(batch)
        for (path, places), projection in zip(self.places.items(), self.projections, strict=True):
            projected = projection(pooled(student[path], places))
            loss = loss + self.settings.weight * self.settings.distance(projected, taught[path].to(projected.device))
        return loss


class _Projection(nn.Module):
    """A linear map between features of any size: the layer in it sees and gives numbers around 1.

    Without that the steepness of the loss would be the ratio of the two sizes, and so would the learning rate it takes.
    """

    def __init__(self, layer: nn.Module, taken: float, given: float) -> None:
        super().__init__()
        self.layer, self.taken, self.given = layer, taken, given

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.given * self.layer(feature / self.taken)
        return projected


def size_of(feature: Tensor) -> float:
    """Return the root mean square of a feature, 1 of one that is 0 everywhere."""
    size = float(feature.float().square().mean().sqrt())
    return size if size > 0 else 1.0


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Hints(_Features):
    """Add weight · Σ ‖projection(student feature) − teacher feature‖² / ‖teacher feature‖²; projections are learned.

    A projection is linear over channels: a 1 × 1 convolution of features (n, channels, places…), a linear layer of
    those that end with their channels, (n, channels) or (n, length, channels) as of transformers.
    """

    def projections(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> nn.ModuleList:
        """Return one linear map over channels for each pair."""
        made: list[nn.Module] = []
        for path, feature in student.items():
            other = teacher[path]
            layer: nn.Module
            if feature.dim() in (2, 3):
                if feature.shape[:-1] != other.shape[:-1]:
                    raise KMRError(
                        f"the features at {path} have shapes {tuple(feature.shape)} and {tuple(other.shape)}, which "
                        "differ in more than their last dimension: name other pairs"
                    )
                layer = nn.Linear(feature.shape[-1], other.shape[-1])
            else:
                kind = nn.Conv2d if feature.dim() == 4 else nn.Conv3d
                layer = kind(feature.shape[1], other.shape[1], 1)
            made.append(_Projection(layer, size_of(feature), size_of(other)))
        return nn.ModuleList(made)

    def places(self, student: torch.Size, teacher: torch.Size) -> tuple[int, ...] | None:
        """Return the places to average both features to; those that end with their channels are left."""
        return common_places(student, teacher) if len(student) > 3 else None

    def distance(self, student: Tensor, taught: Tensor) -> Tensor:
        """Return the relative mean squared difference."""
        return hint(student, taught)


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

    def taught(self, feature: Tensor) -> Tensor:
        """Return the teacher's attention map."""
        return attention_map(feature)

    def distance(self, student: Tensor, taught: Tensor) -> Tensor:
        """Compare two attention maps."""
        return attention(attention_map(student), taught)
