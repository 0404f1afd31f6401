"""Feature distillation: hints with learned projections, and attention transfer.

A hint compares features through a projection that is trained along and then discarded (FitNets, Romero et al. 2015).
Attention transfer compares where features are large and needs no projection (Zagoruyko & Komodakis 2017).
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
    """An added loss: weight · Σ distance(student feature, teacher feature) over pairs of modules.

    Of two features with different resolutions, the finer is averaged down to the coarser.

    Args:
        teacher: a model, or None for the uncompressed model.
        pairs: {path in the student: path in the teacher}; by default stages of the same name.
        count: number of pairs to use, the deepest ones; None uses all.
        weight: factor of the added loss, at least 0.
        cache_mb: the limit in MB up to which the teacher's features of the training split are cached. Features of
            augmented samples are never cached.
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
        """Return modules that map each student feature to the form of the teacher's, given examples of both."""

    @abstractmethod
    def distance(self, student: Tensor, taught: Tensor) -> Tensor:
        """Return the distance of a projected student feature from the target of the teacher's."""

    def taught(self, feature: Tensor) -> Tensor:
        """Return the target that the student matches, from a teacher's feature."""
        return feature

    def places(self, student: torch.Size, teacher: torch.Size) -> tuple[int, ...] | None:
        """Return the resolution to average both features to, or None to keep theirs."""
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
        """Return the loss plus the weighted distances of the features."""
        student = dict(self.seen)
        taught = self.teach(batch)
        for (path, places), projection in zip(self.places.items(), self.projections, strict=True):
            projected = projection(pooled(student[path], places))
            loss = loss + self.settings.weight * self.settings.distance(projected, taught[path].to(projected.device))
        return loss


class _Projection(nn.Module):
    """A linear map between features of any magnitude, whose layer works on values around 1.

    Without this scaling, gradients and suitable learning rates would depend on the ratio of the two magnitudes.
    """

    def __init__(self, layer: nn.Module, taken: float, given: float) -> None:
        super().__init__()
        self.layer, self.taken, self.given = layer, taken, given

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.given * self.layer(feature / self.taken)
        return projected


def size_of(feature: Tensor) -> float:
    """Return the root mean square of a feature, or 1 if it is 0 everywhere."""
    size = float(feature.float().square().mean().sqrt())
    return size if size > 0 else 1.0


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Hints(_Features):
    """Hints through learned projections: weight · Σ ‖projection(student) − teacher‖² / ‖teacher‖² over features.

    A projection is linear over channels: a 1 × 1 convolution for features (n, channels, places…), a linear layer for
    features with channels last, (n, channels) or (n, length, channels) as in transformers.
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
        """Return the resolution to average both features to, or None for features with channels last."""
        return common_places(student, teacher) if len(student) > 3 else None

    def distance(self, student: Tensor, taught: Tensor) -> Tensor:
        """Return the relative mean squared difference."""
        return hint(student, taught)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionTransfer(_Features):
    """Attention transfer: weight · Σ mean squared difference of attention maps of features (n, channels, places…)."""

    weight: float = 1000.0

    def projections(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> nn.ModuleList:
        """Return identities, since attention maps have no channels."""
        flat = [path for path, feature in student.items() if feature.dim() < 3]
        if flat:
            raise KMRError(f"attention transfer needs features with positions: {', '.join(flat)} has none")
        return nn.ModuleList(nn.Identity() for _ in student)

    def taught(self, feature: Tensor) -> Tensor:
        """Return the teacher's attention map."""
        return attention_map(feature)

    def distance(self, student: Tensor, taught: Tensor) -> Tensor:
        """Return the mean squared difference of two attention maps."""
        return attention(attention_map(student), taught)
