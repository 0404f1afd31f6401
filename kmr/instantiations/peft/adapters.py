"""Low-rank adapters under a weight's grid and mask: few parameters train, and merging restores the architecture.

An adapter is the first parametrization of a weight, before its grid and mask. The layer computes with
mask ⊙ grid(latent + B·A) (LoRA, Hu et al. 2022), with separately trained row norms (DoRA, Liu et al. 2024), or with a
linear bottleneck, mask ⊙ grid((I + U·D)·latent). The loop of `kmr.finetune` settles latent weights to the effective
ones, so that merging only needs to detach the adapter.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.representation.weights import WeightLayer, strip, tied_layers, weight_layers


class Adapter(nn.Module):
    """A low-rank term added to a weight as a matrix (m, n); initially 0.

    Args:
        weight: the weight to adapt.
        rank: rank of the added product.
        gain: factor of the product, α / r of the paper.
        directional: use the sum for the direction of each row only, and train the norm separately (DoRA).
        generator: draws the first factor.
    """

    def __init__(
        self, weight: Tensor, rank: int, gain: float, *, directional: bool = False, generator: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        drawn = (2 * torch.rand(rank, columns, generator=generator) - 1) / math.sqrt(columns)
        self.down = nn.Parameter(drawn.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.gain = gain
        length = weight.detach().flatten(1).norm(dim=1) if directional else None
        self.register_parameter("length", None if length is None else nn.Parameter(length))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight plus the low-rank term."""
        summed: Tensor = weight + self.gain * (self.up @ self.down).reshape(weight.shape)
        if self.length is None:
            return summed
        # The norm is treated as a constant in the gradient, as in the paper (section 4.3).
        norms = summed.detach().flatten(1).norm(dim=1).clamp(min=1e-12)
        turned: Tensor = summed * (self.length / norms).reshape(-1, *(1,) * (weight.dim() - 1))
        return turned

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight


class SerialAdapter(nn.Module):
    """A linear bottleneck after a weight W as a matrix (m, n): W + gain · U·D·W; initially W.

    This is a bottleneck adapter (Houlsby et al. 2019) without its nonlinearity, between a layer's product and its bias,
    so that it can be merged into the weight.

    Args:
        weight: the weight to adapt.
        rank: rank of U·D.
        gain: factor of the product.
        generator: draws D.
    """

    def __init__(self, weight: Tensor, rank: int, gain: float, *, generator: torch.Generator) -> None:
        super().__init__()
        rows = len(weight)
        drawn = (2 * torch.rand(rank, rows, generator=generator) - 1) / math.sqrt(rows)
        self.down = nn.Parameter(drawn.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.gain = gain

    def forward(self, weight: Tensor) -> Tensor:
        """Return W + gain · U·D·W."""
        matrix = weight.flatten(1)
        behind: Tensor = matrix + self.gain * (self.up @ (self.down @ matrix))
        return behind.reshape(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight


def adaptable(model: nn.Module) -> dict[str, WeightLayer]:
    """Return the layers that can have an adapter, by path: those whose weight is not shared."""
    tied = tied_layers(model)
    return {path: layer for path, layer in weight_layers(model) if path not in tied}


def largest_rank(shapes: Iterable[tuple[int, int]], budget: int) -> int:
    """Return the largest common rank at which adapters have at most `budget` parameters; 0 if rank 1 exceeds it.

    Args:
        shapes: shapes of the weights as matrices; a weight's own largest possible rank limits its adapter.
        budget: maximum number of parameters.
    """
    sizes = list(shapes)
    low, high = 0, max((min(shape) for shape in sizes), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if adapter_parameters(sizes, middle) <= budget else (low, middle - 1)
    return low


def adapter_parameters(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Return the number of parameters in adapters of this rank for weights of these shapes."""
    return sum(min(rank, *shape) * sum(shape) for shape in shapes)


def attach(
    layers: Mapping[str, WeightLayer],
    rank: int,
    gain: float,
    *,
    directional: bool = False,
    serial: bool = False,
    seed: int = 0,
) -> None:
    """Attach adapters to layers, in place; their outputs stay the same (up to rounding, if directional)."""
    generator = torch.Generator().manual_seed(seed)
    for each in layers.values():
        layer: Any = each
        held = parametrize.is_parametrized(layer, "weight")
        # The adapter works on the latent weight and starts with its row norms.
        latent = layer.parametrizations.weight.original if held else layer.weight
        shape = latent.flatten(1).shape
        made: nn.Module
        if serial:
            made = SerialAdapter(latent, min(rank, shape[0]), gain, generator=generator)
        else:
            made = Adapter(latent, min(rank, *shape), gain, directional=directional, generator=generator)
        made.train(layer.training)
        if held:
            layer.parametrizations.weight.insert(0, made)
        else:
            parametrize.register_parametrization(layer, "weight", made)


def detach(layers: Mapping[str, WeightLayer]) -> None:
    """Detach adapters from layers whose latent weights are settled, in place; their outputs stay the same."""
    for layer in layers.values():
        parts: Any = layer.parametrizations.weight  # type: ignore[union-attr]
        if len(parts) > 1:
            del parts[0]
            continue
        latent = parts.original.detach().clone()
        strip(layer)
        cast(nn.Parameter, layer.weight).data.copy_(latent)
