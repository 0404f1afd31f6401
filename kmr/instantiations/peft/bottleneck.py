"""Bottleneck adapters: small layers after the blocks of a model, trained instead of it (Houlsby et al. 2019)."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.instantiations.factored import convolution_class


class BottleneckAdapter(nn.Module):
    """A residual bottleneck: two thin layers with a nonlinearity between them, added to features; initially 0.

    Args:
        channels: number of channels c of the features.
        width: number of units r in the bottleneck.
        places: number of spatial dimensions after the channels, (n, c, …), for 1 × 1 convolutions (Rebuffi et al.
            2018); None for linear layers over channels last.
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
        """Return the features plus the bottleneck's output."""
        added: Tensor = x + self.up(F.gelu(self.down(x)))
        return added


class Adapted(nn.Module):
    """A module followed by an adapter on its first output; other outputs stay unchanged."""

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
    """Return the number of parameters in adapters of this width, each at most as wide as its features."""
    return sum(2 * size * min(width, size) + min(width, size) + size for size in channels)


def largest_width(channels: list[int], budget: int) -> int:
    """Return the largest common width at which adapters have at most `budget` parameters; 0 if width 1 exceeds it."""
    low, high = 0, max(channels, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if bottleneck_parameters(channels, middle) <= budget else (low, middle - 1)
    return low


def strongest(adapter: BottleneckAdapter, width: int) -> Tensor:
    """Return the ascending indices of the strongest units, by the product of their input and output norms."""
    down, up = (cast(Tensor, layer.weight).detach().flatten(1).double() for layer in (adapter.down, adapter.up))
    weighs = down.norm(dim=1) * up.norm(dim=0)
    # In an untrained adapter all products are 0, so the input norms decide.
    order: Tensor = (weighs + 1e-12 * down.norm(dim=1)).argsort(descending=True, stable=True)
    return order[:width].sort().values


@torch.no_grad()
def narrow(adapter: BottleneckAdapter, places: Tensor) -> None:
    """Reduce an adapter to these units, in place."""
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
    """Return the number of dimensions after the channels of a module's output; None if channels are last."""
    count = feature.dim() - 2
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    convolves = any(
        isinstance(m, kinds) and convolution_class(m) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[count - 1]
        for m in module.modules()
    )
    return count if 1 <= count <= 3 and convolves else None
