"""Criterion from least-squares reconstruction: the readers' error without a channel after a refit."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Split, call
from kmr.instantiations.pruning.criteria.base import Criterion
from kmr.instantiations.pruning.graph import ChannelGroup, Part
from kmr.meters.macs import LayerMACs, count_macs
from kmr.recovery.elimination import removal_costs
from kmr.recovery.passes import tracking
from kmr.recovery.patches import Product, count_places, inputs_at, is_product
from kmr.recovery.patches import groups_of as convolution_groups

_PLACES = 4096
"""Places of a layer to read in each batch."""


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruction(Criterion):
    """The squared error that removing a channel adds in its readers after their other weights are refitted.

    The error is that of `kmr.recovery.removal_costs`, relative to the reader's output variance (or through the
    BatchNorm after it), and relative to the multiply-accumulates saved. Groups can therefore be ranked together: with
    the scope `global`, robust groups lose more channels. Follow the cut by `kmr.recovery.reconstruct`.

    Args:
        power: exponent of the multiply-accumulates of a channel, at least 0; 0 ignores them.
    """

    power: float = 0.5
    relative: bool = False
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.power < 0:
            raise KMRError(f"the power of a reconstruction criterion must be at least 0, not {self.power}")

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        assert data is not None
        parts = [part for group in groups for part in group.parts if not part.makes]
        layers = {
            part.path: cast(Product, layer)
            for part in parts
            if is_product(layer := model.get_submodule(part.path)) and convolution_groups(layer) == 1
        }
        seen = {path: _LayerInputs() for path in layers}
        with torch.no_grad(), tracking(model, layers, lambda _: None) as tracked, ExitStack() as stack:
            for path, layer in layers.items():
                stack.callback(layer.register_forward_hook(_hook(seen[path])).remove)
            for inputs, _ in data.batches():
                call(model, inputs)
        scales = {path: _scale(layer, tracked.normalised.get(path), seen[path]) for path, layer in layers.items()}
        _, macs = count_macs(model, data.first_inputs())
        found = []
        for group in groups:
            costs = [
                _costs(part, layers[part.path], seen[part.path], scales[part.path], group.size)
                for part in group.parts
                if not part.makes and part.path in layers and seen[part.path].count
            ]
            known = [cost for cost in costs if len(cost)]
            saved = _macs_of_a_channel(model, group, macs) ** self.power
            found.append(torch.stack(known).sum(0) / saved if known else torch.empty(0))
        return found


@dataclass
class _LayerInputs:
    """Running sums of a layer's inputs at sampled places, for their mean and covariance."""

    count: int = 0
    gram: Any = 0.0
    mean: Any = 0.0

    def add(self, rows: Tensor) -> None:
        self.gram = self.gram + (rows.mT @ rows).double()
        self.mean = self.mean + rows.double().sum(0)
        self.count += len(rows)

    def covariance(self) -> Tensor:
        mean = self.mean / self.count
        found: Tensor = self.gram / self.count - torch.outer(mean, mean)
        return found


def _hook(seen: _LayerInputs) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        places = torch.randperm(count_places(layer, output), generator=torch.Generator().manual_seed(0))[:_PLACES]
        seen.add(inputs_at(cast(Product, layer), args[0], places.to(output.device))[0])

    return hook


def _scale(layer: Product, norm: Any, seen: _LayerInputs) -> Tensor:
    """Return factors on a layer's outputs, (outputs,), that make errors of different layers comparable."""
    weight = layer.weight.detach().flatten(1).double()
    if norm is not None and norm.running_var is not None:
        slope = 1.0 if norm.weight is None else norm.weight.detach()
        return cast(Tensor, slope / (norm.running_var + norm.eps).sqrt()).double()
    if not seen.count:
        return torch.ones(len(weight), dtype=torch.float64)
    spread = ((weight @ seen.covariance()) * weight).sum(1).mean()
    return torch.full((len(weight),), float(spread.clamp_min(1e-12)) ** -0.5, dtype=torch.float64)


def _costs(part: Part, layer: Product, seen: _LayerInputs, scale: Tensor, size: int) -> Tensor:
    """Return the cost of each of a group's channels in one reader, or an empty tensor if their counts differ."""
    order = part.channels.argsort(stable=True)
    each = torch.bincount(part.channels, minlength=size)
    if not len(order) or int(each.min()) != int(each.max()):
        return torch.empty(0)
    weight = layer.weight.detach()
    kernel = weight[0, 0].numel()
    columns = (part.positions[order][:, None] * kernel + torch.arange(kernel)).flatten().to(weight.device)
    scaled = weight.flatten(1).double() * scale[:, None].to(weight.device)
    return removal_costs(scaled[:, columns], seen.covariance()[columns][:, columns], size).cpu()


def _macs_of_a_channel(model: nn.Module, group: ChannelGroup, macs: dict[str, LayerMACs]) -> float:
    total = 0.0
    for part in group.parts:
        layer = model.get_submodule(part.path)
        if part.path in macs and is_product(layer):
            weight = cast(Product, layer).weight
            width = weight.shape[0] if part.makes else weight.shape[1] * convolution_groups(layer)
            total += macs[part.path].macs * len(part.positions) / width / group.size
    return max(total, 1.0)
