"""Base class of criteria: scores for the channels of all groups of a model at once."""

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
    """An importance score for channels, by the model's loss without them.

    Args:
        relative: divide the scores of a group by their mean, so that groups of different sizes and scales can be ranked
            together.
    """

    relative: bool = True
    needs_data: ClassVar[bool] = False

    @abstractmethod
    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        """Score the channels of each group, (channels,) each; an empty tensor if the criterion cannot score the group.

        Args:
            model: a model without parametrizations, in eval mode; it must not be changed.
            groups: groups of this model.
            data: calibration samples if `needs_data`, else None.
        """

    @final
    def __call__(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None = None) -> list[Tensor]:
        """Return the importance of each channel of each group, on the CPU, in double precision.

        Raises:
            KMRError: the criterion needs calibration data and gets none.
            NotApplicable: a score is not finite.
        """
        kind = type(self).__name__
        if self.needs_data and data is None:
            raise KMRError(f"the criterion {kind} needs calibration data: give the rule `data`")
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

        # The groups depend on the model and on the layers the rule governs; roots and sizes identify them.
        where = [[group.root, group.size, list(group.makers)] for group in groups]
        found = derived("channel scores", score, model=model, groups=where, criterion=self, data=data)
        return [found[str(place)] for place in range(len(groups))]


@dataclass(frozen=True, eq=False)
class Rows:
    """A weight as rows of channels: row `part.positions[i]` of `matrix` is the group's channel `part.channels[i]`."""

    part: Part
    layer: nn.Module
    matrix: Tensor

    def summed(self, values: Tensor, size: int) -> Tensor:
        """Sum one value for each row of the matrix by channel; return (size,)."""
        total = torch.zeros(size, dtype=torch.float64, device=values.device)
        channels = self.part.channels.to(values.device)
        return total.index_add_(0, channels, values.double()[self.part.positions.to(values.device)])


def weight_rows(model: nn.Module, group: ChannelGroup, tensors: dict[str, Tensor] | None = None) -> Iterator[Rows]:
    """Yield the rows of each weight in a group with a known layout.

    Args:
        model: the model.
        group: one of its groups.
        tensors: tensors to use instead of the weights, by the layer's path.
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
    """Return the mean over the parts of a group, or an empty tensor without any."""
    return torch.stack(list(parts)).mean(0) if parts else torch.empty(0)
