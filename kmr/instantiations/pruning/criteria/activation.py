"""Criteria from activations: how often a channel is not zero, and how large it is."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from kmr.data import Split, call
from kmr.instantiations.pruning.criteria.base import Criterion
from kmr.instantiations.pruning.graph import ChannelGroup, Part


@dataclass(frozen=True, kw_only=True)
class ActivationCriterion(Criterion):
    """A mean over samples and positions of a channel as its readers get it, after every activation and pooling.

    If no linear layer or convolution reads a group, the mean is over the outputs of the layers that make it.
    """

    needs_data: ClassVar[bool] = True

    @abstractmethod
    def measure(self, activation: Tensor) -> Tensor:
        """Map activations to the values to average, elementwise."""

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        assert data is not None
        watched = [_watched(model, group) for group in groups]
        means = _means(model, dict.fromkeys((p.path, p.makes) for parts in watched for p in parts), data, self.measure)
        return [_by_channel(group, parts, means) for group, parts in zip(groups, watched, strict=True)]


@final
@dataclass(frozen=True, kw_only=True)
class NonZeros(ActivationCriterion):
    """The share of a channel's activations that are not zero: 1 − APoZ (Hu et al. 2016)."""

    def measure(self, activation: Tensor) -> Tensor:
        return (activation != 0).double()


@final
@dataclass(frozen=True, kw_only=True)
class MeanActivation(ActivationCriterion):
    """The mean absolute activation of a channel (Molchanov et al. 2017)."""

    def measure(self, activation: Tensor) -> Tensor:
        return activation.double().abs()


def _watched(model: nn.Module, group: ChannelGroup) -> list[Part]:
    """Return the parts whose layers expose the group's activations: all readers, or the makers if there is none."""
    shown = [part for part in group.parts if _channel_dim(model.get_submodule(part.path)) is not None]
    return [part for part in shown if not part.makes] or [part for part in shown if part.makes]


def _channel_dim(layer: nn.Module) -> int | None:
    """Return the dimension of a layer's input and output that holds its channels."""
    match layer:
        case nn.modules.conv._ConvNd():
            return 1
        case nn.Linear() | nn.Embedding():
            return -1
    return None


def _means(model: nn.Module, places: Any, data: Split, measure: Any) -> dict[tuple[str, bool], Tensor]:
    """Return for each (path, output or input) the mean of a measure by channel of the layer."""
    totals: dict[tuple[str, bool], Tensor] = {}
    counts: dict[tuple[str, bool], int] = {}
    hooks = []

    def watch(path: str, makes: bool) -> Any:
        layer = model.get_submodule(path)
        dim = _channel_dim(layer)

        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            seen = (output if makes else inputs[0]).detach()
            rows = measure(seen.movedim(dim, 0).flatten(1))
            totals[path, makes] = totals.get((path, makes), 0) + rows.sum(1)
            counts[path, makes] = counts.get((path, makes), 0) + rows.shape[1]

        return layer.register_forward_hook(hook)

    try:
        hooks = [watch(path, makes) for path, makes in places]
        with torch.no_grad():
            for inputs, _ in data.batches():
                call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {place: total / counts[place] for place, total in totals.items()}


def _by_channel(group: ChannelGroup, parts: list[Part], means: dict[tuple[str, bool], Tensor]) -> Tensor:
    total, count = torch.zeros(group.size, dtype=torch.float64), torch.zeros(group.size, dtype=torch.float64)
    for part in parts:
        mean = means.get((part.path, part.makes))
        if mean is not None:
            total.index_add_(0, part.channels, mean.double().cpu()[part.positions])
            count.index_add_(0, part.channels, torch.ones(len(part.channels), dtype=torch.float64))
    return total / count if bool((count > 0).all()) else torch.empty(0)
