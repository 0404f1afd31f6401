"""Bottleneck adapters: small layers behind the blocks of a model, trained in place of it (Houlsby et al. 2019)."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.instantiations.factored import convolution_class


class BottleneckAdapter(nn.Module):
    """Adds to features what two thin layers with a nonlinearity between make of them; nothing at first.

    Args:
        channels: c, of the features.
        width: r, of the bottleneck.
        places: dimensions behind the channels, (n, c, …), where the layers are convolutions of single points (Rebuffi
            et al. 2018); None where channels are last and they are linear.
        generator: draws the first layer.
    """

    def __init__(self, channels: int, width: int, places: int | None, generator: torch.Generator) -> None:
        super().__init__()
        self.down: nn.Module = _layer(channels, width, places)
        self.up: nn.Module = _layer(width, channels, places)
        bound = channels**-0.5
        with torch.no_grad():
            for parameter in self.down.parameters():
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
            for parameter in self.up.parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        added: Tensor = x + self.up(F.gelu(self.down(x)))
        return added


class Adapted(nn.Module):
    """A module with an adapter behind it; what else the module gives beside its output stays as it is."""

    def __init__(self, inner: nn.Module, adapter: BottleneckAdapter) -> None:
        super().__init__()
        self.inner = inner
        self.adapter = adapter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, then the adapter."""
        output = self.inner(*args, **kwargs)
        if isinstance(output, tuple):
            return (self.adapter(output[0]), *output[1:])
        return self.adapter(output)


def bottleneck_parameters(channels: list[int], width: int) -> int:
    """Return how many parameters adapters of a width hold, each no wider than the features it is for."""
    return sum(2 * size * min(width, size) + min(width, size) + size for size in channels)


def largest_width(channels: list[int], budget: int) -> int:
    """Return the largest width, one for all, at which adapters hold at most so many parameters; 0 for none."""
    low, high = 0, max(channels, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if bottleneck_parameters(channels, middle) <= budget else (low, middle - 1)
    return low


def strongest(adapter: BottleneckAdapter, width: int) -> Tensor:
    """Return the places, ascending, of the units that weigh most: by the product of their norms on both sides."""
    down, up = (cast(Tensor, layer.weight).detach().flatten(1).double() for layer in (adapter.down, adapter.up))
    weighs = down.norm(dim=1) * up.norm(dim=0)
    # An untrained adapter's all weigh nothing: then by what goes in.
    order: Tensor = (weighs + 1e-12 * down.norm(dim=1)).argsort(descending=True, stable=True)
    return order[:width].sort().values


@torch.no_grad()
def narrow(adapter: BottleneckAdapter, places: Tensor) -> None:
    """Keep these units of an adapter alone, in place."""
    down: Any = adapter.down
    up: Any = adapter.up
    flags = down.weight.requires_grad
    down.weight = nn.Parameter(down.weight[places].clone(), requires_grad=flags)
    down.bias = nn.Parameter(down.bias[places].clone(), requires_grad=flags)
    up.weight = nn.Parameter(up.weight[:, places].clone(), requires_grad=flags)
    kind = "features" if isinstance(down, nn.Linear) else "channels"
    setattr(down, f"out_{kind}", len(places))
    setattr(up, f"in_{kind}", len(places))


def _layer(inputs: int, outputs: int, places: int | None) -> nn.Module:
    if places is None:
        return nn.Linear(inputs, outputs)
    made: nn.Module = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[places - 1](inputs, outputs, 1)
    return made


def places_of(module: nn.Module, feature: Tensor) -> int | None:
    """Return how many dimensions follow the channels of what a module gives; None where channels are last."""
    count = feature.dim() - 2
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    convolves = any(
        isinstance(m, kinds) and convolution_class(m) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[count - 1]
        for m in module.modules()
    )
    return count if 1 <= count <= 3 and convolves else None
