"""What every criterion shares: it scores the channels of all groups of a model at once, and the least important go."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from kmr.cache import derived
from kmr.core import KMRError, NotApplicable
from kmr.data import Split
from kmr.instantiations.pruning.graph import ChannelGroup, Part
from kmr.instantiations.pruning.rows import channel_rows


@dataclass(frozen=True, kw_only=True)
class Criterion(ABC):
    """Scores channels by what the model would lose without them.

    Args:
        relative: divide the scores of a group by their mean, so that groups of other sizes and scales can be ranked
            together.
    """

    relative: bool = True
    needs_data: ClassVar[bool] = False

    @abstractmethod
    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        """Score the channels of each group, (channels,) each; an empty tensor where the criterion has nothing to go by.

        Args:
            model: without parametrizations, in eval mode; it must be left as it is.
            groups: of this model.
            data: calibration samples, where `needs_data`.
        """

    @final
    def __call__(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None = None) -> list[Tensor]:
        """Return the importance of each channel of each group, on the CPU, in double precision.

        Raises:
            KMRError: the criterion needs calibration data and there is none.
            NotApplicable: a score is not finite.
        """
        kind = type(self).__name__
        if self.needs_data and data is None:
            raise KMRError(f"the criterion {kind} reads calibration data: give the rule `data`")
        modes = [(module, module.training) for module in model.modules()]
        try:
            found = self._scores(model.eval(), groups, data)
        finally:
            for module, training in modes:
                module.training = training
        finished = []
        for group, score in zip(groups, found, strict=True):
            score = score.detach().double().cpu()
            if len(score) and not bool(torch.isfinite(score).all()):
                raise NotApplicable(f"the criterion {kind} found no finite score for the channels of {group.root}")
            mean = float(score.mean()) if self.relative and len(score) else 0.0
            finished.append(score / mean if mean > 0 else score)
        return finished

    def _scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        if not self.needs_data:
            return self.scores(model, groups, data)

        def score() -> dict[str, Tensor]:
            return {str(place): each for place, each in enumerate(self.scores(model, groups, data))}

        # The groups follow from the model and from where the rule may cut, which their roots and sizes tell.
        where = [[group.root, group.size, list(group.makers)] for group in groups]
        found = derived("channel scores", score, model=model, groups=where, criterion=self, data=data)
        return [found[str(place)] for place in range(len(groups))]


@dataclass(frozen=True, eq=False)
class Rows:
    """A weight by channels: row `part.positions[i]` of `matrix` belongs to the group's channel `part.channels[i]`."""

    part: Part
    layer: nn.Module
    matrix: Tensor

    def summed(self, values: Tensor, size: int) -> Tensor:
        """Add up one value for each row of the matrix over the channels they belong to, (size,)."""
        total = torch.zeros(size, dtype=torch.float64, device=values.device)
        channels = self.part.channels.to(values.device)
        return total.index_add_(0, channels, values.double()[self.part.positions.to(values.device)])


def weight_rows(model: nn.Module, group: ChannelGroup, tensors: dict[str, Tensor] | None = None) -> Iterator[Rows]:
    """Yield the rows of each weight of a group that has a known form.

    Args:
        model: the model.
        group: one of its groups.
        tensors: read these, by the layer's path, instead of the weights.
    """
    for part in group.parts:
        layer = model.get_submodule(part.path)
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor):
            tensor = weight.detach() if tensors is None else tensors.get(part.path)
            rows = None if tensor is None else channel_rows(layer, tensor, part.makes)
            if rows is not None and len(part.positions):
                yield Rows(part, layer, rows)


def mean_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the mean over the parts of a group, or an empty tensor where there is none."""
    return torch.stack(list(parts)).mean(0) if parts else torch.empty(0)
