"""Low-rank adapters under whatever holds a weight: what is trained is small, what is left is the same model.

An adapter is the first parametrization of a weight, before its grid and mask: the layer computes with
mask ⊙ grid(latent + B·A) (Hu et al. 2022), with rows of a length of their own (DoRA, Liu et al. 2024), or with a
linear bottleneck behind it, mask ⊙ grid((I + U·D)·latent). The loop of
`kmr.finetune` settles latent weights on what the layer computes with; taking the adapter off is then all of merging.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.representation.weights import WeightLayer, strip, tied_layers, weight_layers


class Adapter(nn.Module):
    """Adds a product of two thin matrices to a weight seen as a matrix (m, n); nothing at first.

    Args:
        weight: which it is for.
        rank: of the product.
        gain: what the product is multiplied by, α / r of the paper.
        directional: the sum gives each row's direction alone, its length is trained by itself (DoRA).
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
        """Add."""
        summed: Tensor = weight + self.gain * (self.up @ self.down).reshape(weight.shape)
        if self.length is None:
            return summed
        # The gradient passes by the norm, as in the paper (section 4.3).
        norms = summed.detach().flatten(1).norm(dim=1).clamp(min=1e-12)
        turned: Tensor = summed * (self.length / norms).reshape(-1, *(1,) * (weight.dim() - 1))
        return turned

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight


class SerialAdapter(nn.Module):
    """Puts two thin matrices behind what a weight seen as a matrix (m, n) computes: W + gain · U·D·W; nothing at first.

    It is a bottleneck adapter (Houlsby et al. 2019) without its nonlinearity, between a layer's product and its bias,
    so that it can be multiplied into the weight.

    Args:
        weight: which it is for.
        rank: of U·D.
        gain: what the product is multiplied by.
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
        """Multiply and add."""
        matrix = weight.flatten(1)
        behind: Tensor = matrix + self.gain * (self.up @ (self.down @ matrix))
        return behind.reshape(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight


def adaptable(model: nn.Module) -> dict[str, WeightLayer]:
    """Return the layers an adapter can be put on, by path: those whose weight is theirs alone."""
    tied = tied_layers(model)
    return {path: layer for path, layer in weight_layers(model) if path not in tied}


def largest_rank(shapes: Iterable[tuple[int, int]], budget: int) -> int:
    """Return the largest rank, one for all, at which adapters hold at most so many parameters; 0 where 1 is too much.

    Args:
        shapes: of the weights as matrices. A weight takes part up to the rank that it has at most.
        budget: parameters.
    """
    sizes = list(shapes)
    low, high = 0, max((min(shape) for shape in sizes), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if adapter_parameters(sizes, middle) <= budget else (low, middle - 1)
    return low


def adapter_parameters(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Return how many parameters the factors of a rank hold, for weights of these shapes."""
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
    """Put adapters on layers, in place; they compute the same as before (to rounding, where directional)."""
    generator = torch.Generator().manual_seed(seed)
    for each in layers.values():
        layer: Any = each
        held = parametrize.is_parametrized(layer, "weight")
        # The adapter is given the latent weight, and the rows of that have the length that it begins with.
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
    """Take adapters off layers whose latent weights have been settled, in place: the layers compute the same."""
    for layer in layers.values():
        parts: Any = layer.parametrizations.weight  # type: ignore[union-attr]
        if len(parts) > 1:
            del parts[0]
            continue
        latent = parts.original.detach().clone()
        strip(layer)
        cast(nn.Parameter, layer.weight).data.copy_(latent)
