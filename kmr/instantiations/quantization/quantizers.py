"""Uniform quantizers: the `scale` and `zero_point` for a weight. `kmr.representation.rounding` does the rounding.

All quantizers compute in double precision. They return tensors of the weight's dtype that broadcast against it: one
value for the whole tensor, one for each index along `dim`, or (`fit_grid`) one for each group of entries in a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.representation.rounding import from_codes, nearest_level, to_codes
from kmr.representation.weights import Codebook, Grid, WeightState

Quantizer: TypeAlias = Callable[[Tensor, int, int | None], tuple[Tensor, Tensor]]
"""A function of (weight, bits, dim or None for one grid over the tensor) that returns (scale, zero_point)."""

SHRINKS = tuple(1 - 0.025 * step for step in range(34))
"""The shares of a weight's range that `clip="mse"` tries, down to 0.175."""


def affine_grid(weight: Tensor, bits: int, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Spread 2^bits levels over the weight's range, widened so that 0 is a level (Jacob et al. 2018, eq. 1).

    At 1 bit, all schemes are sign(w)·mean|w| (Rastegari et al. 2016).
    """
    return _grid("affine", weight, bits, dim)


def symmetric_grid(weight: Tensor, bits: int, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Spread 2^bits − 1 levels symmetrically around 0, the outermost at the largest magnitude."""
    return _grid("symmetric", weight, bits, dim)


def midrise_grid(weight: Tensor, bits: int, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Spread 2^bits levels symmetrically around 0, without 0, the outermost at the largest magnitude."""
    return _grid("midrise", weight, bits, dim)


def kmr_grid(weight: Tensor, bits: int, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Use 2^bits consecutive multiples of Δ = (max w − min w)/(2^bits − 1) from min w up as levels (Algorithm 5).

    A constant weight c has no Δ; its levels are multiples of c, so that it stays exact. The same holds for weights
    whose spread is too small, relative to their size, to distinguish levels in their precision.
    """
    return _grid("kmr", weight, bits, dim)


QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(
    {"affine": affine_grid, "symmetric": symmetric_grid, "midrise": midrise_grid, "kmr": kmr_grid}
)


def fit_grid(
    weight: Tensor,
    bits: int,
    *,
    scheme: str = "affine",
    dim: int | None = None,
    group: int = 0,
    clip: Literal["range", "mse"] = "range",
    power_of_two: bool = False,
    learned: bool = False,
) -> Grid:
    """Return the grid of a scheme for a weight.

    Args:
        weight: any shape.
        bits: bits of a code.
        scheme: `affine`, `symmetric`, `midrise` or `kmr`.
        dim: one grid for each index along this dimension; None for one grid.
        group: number of consecutive entries of a row that share a scale instead, as in
            `kmr.representation.weights.Grid`; 0 for no groups.
        clip: spread levels over the whole `range`, or over the share of it with the least squared error (`mse`).
        power_of_two: round scales up to powers of two, so that no further value is clamped.
        learned: train the scale with the weight.

    Raises:
        KMRError: an argument is invalid.
    """
    if scheme not in QUANTIZERS:
        raise KMRError(f"unknown quantization scheme {scheme!r}: choose {', '.join(QUANTIZERS)}")
    if clip not in ("range", "mse"):
        raise KMRError(f"the clip of a grid must be range or mse, not {clip!r}")
    if group < 0:
        raise KMRError(f"the group of a grid must be at least 1, or 0 for no groups, not {group}")
    weight = weight.detach()
    if not group:
        scale, zero_point = _grid(scheme, weight, bits, dim, clip=clip, power_of_two=power_of_two)
        return Grid(scale, zero_point, bits, learned=learned)
    rows = weight.flatten(1)
    count = -(-rows.shape[1] // group)
    # Padding with the last entry of the row does not change the range of its group.
    filled = torch.cat([rows, rows[:, -1:].expand(-1, count * group - rows.shape[1])], 1).reshape(-1, group)
    scale, zero_point = _grid(scheme, filled, bits, 0, clip=clip, power_of_two=power_of_two)
    shape = (len(rows), count)
    return Grid(scale.reshape(shape), zero_point.reshape(shape), bits, group=group, learned=learned)


def fit_like(state: WeightState, weight: Tensor, dim: int) -> Grid | Codebook:
    """Return a grid for another weight with the bits, scheme and granularity of an existing grid.

    The grid reveals its scheme: a symmetric grid has 0 in the middle of the codes and never uses the lowest code; an
    affine one has 0 among the codes; the paper's may have it anywhere (and counts as affine if it is among the codes).
    For a codebook, return one with as many bits.

    Raises:
        KMRError: the state has no grid.
    """
    grid = state.grid
    if grid is None:
        raise KMRError("the weight has no grid to imitate: give the state of a quantized weight")
    if isinstance(grid, Codebook):
        return fit_codebook(weight, grid.bits, learned=grid.learned)
    codes, zero_point = grid.codes(state.weight), grid.zero_point
    if bool((zero_point != zero_point.floor()).any()):
        scheme = "midrise"
    elif grid.bits > 1 and bool((zero_point == 2.0 ** (grid.bits - 1)).all()) and float(codes.min()) > 0:
        scheme = "symmetric"
    else:
        scheme = "affine" if bool(((zero_point >= 0) & (zero_point <= _steps(grid.bits))).all()) else "kmr"
    by_channel = grid.scale.numel() > 1
    return fit_grid(
        weight, grid.bits, scheme=scheme, dim=dim if by_channel else None, group=grid.group, learned=grid.learned
    )


def fit_codebook(weight: Tensor, bits: int, *, keep: Tensor | None = None, learned: bool = True) -> Codebook:
    """Return a codebook of at most 2^bits levels by k-means, initialised linearly (Han et al. 2016, section 3).

    Args:
        weight: any shape.
        bits: bits of a code.
        keep: mask of the weights to fit; masked weights need no level.
        learned: train the levels with the weight.
    """
    _steps(bits)
    values = weight.detach().double()
    values = (values if keep is None else values[keep.expand(weight.shape)]).reshape(-1)
    distinct = torch.unique(values)
    if len(distinct) == 0:
        distinct = values.new_zeros(1)
    if len(distinct) <= 2**bits:
        return Codebook(distinct.to(weight.dtype), bits, learned=learned)
    levels = torch.linspace(float(distinct[0]), float(distinct[-1]), 2**bits, dtype=torch.float64, device=values.device)
    for _ in range(_ROUNDS):
        places = nearest_level(values, levels)
        counts = torch.bincount(places, minlength=len(levels))
        sums = torch.zeros_like(levels).index_add_(0, places, values)
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), levels)
        if torch.equal(moved, levels):
            break
        levels = moved
    return Codebook(levels[counts > 0].to(weight.dtype), bits, learned=learned)


_ROUNDS = 60
"""Maximum rounds of k-means; the levels of real weights hardly move after 30."""


def channel_dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that counts its output channels (rows, for an embedding).

    The weight of a grouped transposed convolution has only the output channels of one group. Its groups share a grid
    along them; if a group has a single output channel, the grid follows the input channels instead.
    """
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return 1 if layer.groups == 1 or layer.weight.shape[1] > 1 else 0
    return 0


@dataclass(frozen=True)
class _Target:
    """The kind of grid to fit: its scheme, bits and precision."""

    scheme: str
    bits: int
    dtype: torch.dtype
    power_of_two: bool = False

    def over(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and zero point for a range."""
        steps, middle = _steps(self.bits), 2.0 ** (self.bits - 1)
        magnitude = torch.maximum(low.abs(), high.abs())
        match self.scheme:
            case "affine":
                low, high = low.clamp(max=0), high.clamp(min=0)
                scale = self._usable((high - low) / steps)
                zero_point = torch.round(-low / scale.double()).clamp(0, steps) + 0.0
            case "symmetric":
                scale = self._usable(magnitude / (middle - 1))
                zero_point = torch.full_like(scale, middle)
            case "midrise":
                scale = self._usable(2 * magnitude / steps)
                # A weight of zeros gets 0 as a level.
                nothing = 2 * magnitude / steps < torch.finfo(self.dtype).tiny
                zero_point = torch.where(nothing, middle, steps / 2)
            case _:
                step = (high - low) / steps
                # Codes further from 0 than this are not whole numbers in the weight's precision.
                farthest = max(0.125 / torch.finfo(self.dtype).eps, 2 * steps)
                scale = self._usable(torch.where(magnitude > step * farthest, magnitude, step))
                # Rounding in the weight's dtype, like the grid itself, gives the lowest weight code 0.
                zero_point = -torch.round(low.to(self.dtype) / scale) + 0.0
        return scale, zero_point.to(self.dtype)

    def _usable(self, scale: Tensor) -> Tensor:
        """Return the scale in the weight's dtype, or 1 where the range is empty."""
        if self.power_of_two:
            scale = torch.where(scale > 0, torch.exp2(torch.ceil(torch.log2(scale))), scale)
        narrow = scale.to(self.dtype)
        return torch.where(narrow >= torch.finfo(self.dtype).tiny, narrow, torch.ones_like(narrow))


def _grid(
    scheme: str,
    weight: Tensor,
    bits: int,
    dim: int | None,
    *,
    clip: Literal["range", "mse"] = "range",
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor]:
    weight = weight.detach()
    _steps(bits)
    dims = tuple(d for d in range(weight.dim()) if dim is None or d != dim % weight.dim())
    wide = weight.double()
    if bits == 1:
        mean = wide.abs().mean(dims, keepdim=True)
        return _Target("midrise", bits, weight.dtype, power_of_two).over(-mean, mean)
    target = _Target(scheme, bits, weight.dtype, power_of_two)
    low, high = wide.amin(dims, keepdim=True), wide.amax(dims, keepdim=True)
    best = target.over(low, high)
    if clip == "mse":
        error = partial(_squared_error, weight, bits, dims)
        least = error(*best)
        for shrink in SHRINKS[1:]:
            scale, zero_point = target.over(low * shrink, high * shrink)
            found = error(scale, zero_point)
            better = found < least
            least = torch.where(better, found, least)
            best = torch.where(better, scale, best[0]), torch.where(better, zero_point, best[1])
    return best


def _squared_error(weight: Tensor, bits: int, dims: tuple[int, ...], scale: Tensor, zero_point: Tensor) -> Tensor:
    rounded = from_codes(to_codes(weight, scale, zero_point, bits), scale, zero_point)
    return (weight - rounded).double().square().sum(dims, keepdim=True)


def _steps(bits: int) -> float:
    if bits < 1:
        raise KMRError(f"a grid needs at least 1 bit, not {bits}")
    return 2.0**bits - 1
