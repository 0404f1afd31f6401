"""Uniform quantizers: which `scale` and `zero_point` a weight gets. Rounding itself is `kmr.weights.Grid`.

All compute in double precision and return tensors of the weight's dtype that broadcast against it: one value for the
whole tensor, or one for each index along `dim`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.weights import Grid, WeightState

Quantizer: TypeAlias = Callable[[Tensor, int, int | None], tuple[Tensor, Tensor]]
"""Of (weight, bits, dim or None for one grid over the tensor), the (scale, zero_point)."""


def affine_grid(weight: Tensor, bits: int, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Spread 2^bits levels over the weight's range, widened to hold 0, which is a level (Jacob et al. 2018, eq. 1)."""
    low, high = _range(weight, dim)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _usable((high - low) / _steps(bits), weight)
    zero_point = torch.round(-low / scale.double()).clamp(0, _steps(bits)) + 0.0
    return scale, zero_point.to(weight.dtype)


def symmetric_grid(weight: Tensor, bits: int, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Spread 2^bits − 1 levels evenly around 0, the outermost on the largest magnitude; needs 2 bits or more."""
    if bits < 2:
        raise KMRError(f"a symmetric grid needs at least 2 bits, not {bits}")
    low, high = _range(weight, dim)
    middle = 2.0 ** (bits - 1)
    scale = _usable(torch.maximum(-low, high) / (middle - 1), weight)
    return scale, torch.full_like(scale, middle)


def kmr_grid(weight: Tensor, bits: int, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Round to multiples of Δ = (max w − min w)/(2^bits − 1) (Algorithm 5), on 2^bits consecutive ones from min w up.

    A constant weight c has no Δ; it gets multiples of c, so that it stays exact. So do weights whose spread is
    too small beside their size to tell levels apart in their precision.
    """
    low, high = _range(weight, dim)
    step = (high - low) / _steps(bits)
    magnitude = torch.maximum(low.abs(), high.abs())
    # Codes further from 0 than this are no longer whole numbers in the weight's precision.
    farthest = max(0.125 / torch.finfo(weight.dtype).eps, 2 * _steps(bits))
    scale = _usable(torch.where(magnitude > step * farthest, magnitude, step), weight)
    # Rounded as the grid itself rounds, in the dtype of the weight, so that the lowest weight has code 0.
    return scale, -torch.round(low.to(weight.dtype) / scale) + 0.0


QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(
    {"affine": affine_grid, "symmetric": symmetric_grid, "kmr": kmr_grid}
)


def fit_grid(weight: Tensor, bits: int, *, scheme: str = "affine", dim: int | None = None) -> Grid:
    """Return the grid of a scheme (`affine`, `symmetric` or `kmr`) for a weight."""
    if scheme not in QUANTIZERS:
        raise KMRError(f"unknown quantization scheme {scheme!r}: choose {', '.join(QUANTIZERS)}")
    return Grid(*QUANTIZERS[scheme](weight.detach(), bits, dim), bits)


def fit_like(state: WeightState, weight: Tensor, dim: int) -> Grid:
    """Return a grid for another weight with the bits, scheme and granularity of the one a layer's weight is on.

    The scheme is told from the grid: symmetric ones have 0 in the middle of the codes and leave the lowest code unused,
    affine ones have 0 among the codes, and the paper's anywhere (where it is among the codes, it is taken for affine).
    """
    grid = state.grid
    if grid is None:
        raise KMRError("a weight that is on no grid has none to be like")
    codes, zero_point = grid.codes(state.weight), grid.zero_point
    if grid.bits > 1 and bool((zero_point == 2.0 ** (grid.bits - 1)).all()) and float(codes.min()) > 0:
        scheme = "symmetric"
    else:
        scheme = "affine" if bool(((zero_point >= 0) & (zero_point <= _steps(grid.bits))).all()) else "kmr"
    return fit_grid(weight, grid.bits, scheme=scheme, dim=None if grid.scale.numel() == 1 else dim)


def channel_dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that counts its output channels (rows, for an embedding).

    Grouped transposed convolutions hold the output channels of one group only; a grid along them is shared by the
    groups, and where a group has a single one the grid follows the input channels instead.
    """
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return 1 if layer.groups == 1 or layer.weight.shape[1] > 1 else 0
    return 0


def _steps(bits: int) -> float:
    if bits < 1:
        raise KMRError(f"a grid needs at least 1 bit, not {bits}")
    return 2.0**bits - 1


def _range(weight: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    dims = tuple(d for d in range(weight.dim()) if dim is None or d != dim % weight.dim())
    wide = weight.detach().double()
    return wide.amin(dims, keepdim=True), wide.amax(dims, keepdim=True)


def _usable(scale: Tensor, weight: Tensor) -> Tensor:
    """Return the scale in the weight's dtype, 1 where there is nothing to spread levels over."""
    narrow = scale.to(weight.dtype)
    return torch.where(narrow >= torch.finfo(weight.dtype).tiny, narrow, torch.ones_like(narrow))
