"""Compressed weights: values on a grid and under a mask that survive any optimizer step.

A weight is `mask ⊙ grid(latent)`. The grid (evenly spaced levels, or any levels in a codebook) and the mask are
parametrizations: an optimizer moves the latent values while every forward pass computes with masked values on the grid.
A plain gradient step cannot un-prune or un-quantize. After each fine-tuning, `settle` sets the latent values to the
effective ones. Visible weights, grids and masks then describe a model completely, and a loaded model trains on like the
original. Settling also adds to a mask every entry that became 0 under it. A model's stored size then follows from its
masks and grids, and training can only lower it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.core.norms import is_ours
from kmr.representation.rounding import fake_quantize, from_codes, look_up, nearest_level, to_codes

WeightLayer: TypeAlias = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    | nn.Linear | nn.Embedding | nn.Bilinear
)  # fmt: skip
"""The layer classes whose `weight` can have a mask and a grid."""

WEIGHT_LAYERS = WeightLayer.__args__


class Grid(nn.Module):
    """A rounding of a weight to `scale · (code − zero_point)` with whole codes in [0, 2^bits − 1].

    Gradients pass straight through.

    Args:
        scale: positive; broadcasts against the weight (one value, or one for each output channel). With `group`, of
            shape (rows, groups in a row).
        zero_point: the code of 0, whole or half numbers, same shape as `scale`; it may lie outside the codes.
        bits: bits of a code, 1 to 16.
        group: number of consecutive entries that share a scale, in a row of the weight as a matrix (first dimension ×
            all others); the last group of a row may be shorter. 0 if scales broadcast.
        learned: train the scale with the weight (learned step size quantization, Esser et al. 2020).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, bits: int, *, group: int = 0, learned: bool = False) -> None:
        super().__init__()
        if learned:
            self.scale = nn.Parameter(scale.detach().clone())
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.bits = bits
        self.group = group

    @property
    def learned(self) -> bool:
        """Tell whether an optimizer moves the scale."""
        return isinstance(self.scale, nn.Parameter)

    def codes(self, weight: Tensor) -> Tensor:
        """Return the codes of a weight as whole numbers of its own dtype, or of float32 for 16-bit floats."""
        scale, zero_point = self.spread(weight)
        return to_codes(weight, scale, zero_point, self.bits)

    def values(self, codes: Tensor) -> Tensor:
        """Return the weights that the codes represent."""
        scale, zero_point = self.spread(codes)
        return from_codes(codes, scale, zero_point)

    def forward(self, weight: Tensor) -> Tensor:
        """Round; the gradient is that of the identity where the code is not clamped, and 0 elsewhere."""
        scale, zero_point = self.spread(weight)
        step_gradient = (weight.numel() / max(1, self.scale.numel()) * (2**self.bits - 1)) ** -0.5
        return fake_quantize(weight, scale, zero_point, self.bits, step_gradient)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight

    def spread(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and zero point in shapes that broadcast against a weight."""
        scale = self.scale.clamp(min=torch.finfo(self.scale.dtype).tiny) if self.learned else self.scale
        if not self.group:
            return scale, self.zero_point
        columns = weight[:1].numel()
        spread = (
            t.repeat_interleave(self.group, 1)[:, :columns].reshape(weight.shape) for t in (scale, self.zero_point)
        )
        return next(spread), next(spread)

    def like(self, scale: Tensor, zero_point: Tensor) -> "Grid":
        """Return a grid of the same kind with other scales and zero points."""
        return Grid(scale, zero_point, self.bits, group=self.group, learned=self.learned)


class Codebook(nn.Module):
    """A rounding of each weight to the nearest of a few arbitrary levels; gradients pass straight through.

    A level receives the sum of the gradients of its weights (Han et al. 2016, section 3), divided by the square root of
    the mean number of weights per level, so that it learns about as fast as a weight.

    Args:
        levels: of shape (k,).
        bits: bits of a code, 1 to 16; 2^bits ≥ k.
        learned: train the levels with the weight.
    """

    levels: Tensor

    def __init__(self, levels: Tensor, bits: int, *, learned: bool = True) -> None:
        super().__init__()
        if learned:
            self.levels = nn.Parameter(levels.detach().clone())
        else:
            self.register_buffer("levels", levels)
        self.bits = bits

    @property
    def learned(self) -> bool:
        """Tell whether an optimizer moves the levels."""
        return isinstance(self.levels, nn.Parameter)

    def codes(self, weight: Tensor) -> Tensor:
        """Return the indices of the nearest levels as whole numbers of the weight's dtype."""
        return nearest_level(weight, self.levels.detach()).to(weight.dtype)

    def values(self, codes: Tensor) -> Tensor:
        """Return the weights that the codes represent."""
        return self.levels[codes.long().clamp(0, len(self.levels) - 1)]

    def forward(self, weight: Tensor) -> Tensor:
        """Replace each weight by its nearest level."""
        return look_up(weight, self.levels)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight


class Mask(nn.Module):
    """A mask that holds weights at 0 wherever `keep` is False."""

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with its removed entries, and their gradients, at exactly 0."""
        return torch.where(self.keep, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight


@dataclass(frozen=True)
class WeightState:
    """The state of a layer's weight: the effective values (detached), their grid and their mask (`keep`)."""

    weight: Tensor
    grid: Grid | Codebook | None = None
    keep: Tensor | None = None

    @property
    def bits(self) -> int:
        """The bits of a stored entry: those of the grid, or of the weight's dtype."""
        return 8 * self.weight.element_size() if self.grid is None else self.grid.bits


def weight_layers(model: nn.Module) -> Iterator[tuple[str, WeightLayer]]:
    """Yield the path and module of every layer whose weight can be compressed, each module once."""
    for path, module in model.named_modules():
        if isinstance(module, WEIGHT_LAYERS):
            yield path, cast(WeightLayer, module)


def read_weight(layer: nn.Module) -> WeightState:
    """Return the state of a layer's weight."""
    weight = cast(Tensor, layer.weight).detach()
    grid = keep = None
    if parametrize.is_parametrized(layer, "weight"):
        for part in layer.parametrizations.weight:  # type: ignore[union-attr]
            if isinstance(part, Grid | Codebook):
                grid = part
            elif isinstance(part, Mask):
                keep = part.keep
    return WeightState(weight, grid, keep)


def write_weight(layer: nn.Module, state: WeightState) -> None:
    """Set a layer's weight, grid and mask, in place of those it had.

    The latent values are settled: they equal the effective weight, and the mask removes every 0 in it.
    """
    strip(layer)
    parameter = cast(nn.Parameter, layer.weight)
    effective = state.weight
    for part in _parts(state):
        effective = part(effective)
    if state.keep is not None:
        state = replace(state, keep=state.keep & (effective.detach() != 0))
    layer.weight = nn.Parameter(effective.detach().clone(), requires_grad=parameter.requires_grad)
    if state.grid is not None:
        state.grid.requires_grad_(parameter.requires_grad)
    for part in _parts(state):
        parametrize.register_parametrization(layer, "weight", part)


def strip(layer: nn.Module) -> WeightState:
    """Make a layer's weight a plain parameter with its effective values; return its previous state."""
    state = read_weight(layer)
    if parametrize.is_parametrized(layer, "weight"):
        # Torch keeps `weight` as a property of a class made for the layer. Deep copies share that class, and removal
        # deletes the property from it. Without a separate class, stripping a copy would break the original.
        shared = type(layer)
        own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(shared.__name__, shared.__bases__, own)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return state


def settle(model: nn.Module) -> nn.Module:
    """Set every latent weight to its effective value, in place; the model's outputs stay the same.

    Entries that are 0 under a mask join it.
    """
    for _, layer in weight_layers(model):
        if parametrize.is_parametrized(layer, "weight"):
            if not is_ours(layer):
                continue  # a parametrization of somebody else's: its tensors are no latent weight
            for part in layer.parametrizations.weight:  # type: ignore[union-attr]
                if isinstance(part, Mask):
                    part.keep &= read_weight(layer).weight != 0
            latent = cast(Tensor, layer.parametrizations.weight.original)  # type: ignore[union-attr]
            latent.data.copy_(read_weight(layer).weight)
    return model


def strip_all(model: nn.Module) -> nn.Module:
    """Make every weight a plain parameter, in place: the model to time or export."""
    for _, layer in weight_layers(model):
        strip(layer)
    return model


@contextmanager
def computed_once(model: nn.Module) -> Iterator[None]:
    """Compute each grid and mask once for the passes inside, which must not train, instead of in every pass."""
    held = [
        (layer, type(layer))
        for _, layer in weight_layers(model)
        if parametrize.is_parametrized(layer, "weight")
        and list(layer.parametrizations) == ["weight"]  # type: ignore[arg-type]
        and "weight" not in vars(layer)
    ]
    try:
        for layer, kind in held:
            value = read_weight(layer).weight
            layer.__class__ = kind.__bases__[0]  # the class without torch's property
            vars(layer)["weight"] = value
        yield
    finally:
        for layer, kind in held:
            vars(layer).pop("weight", None)
            layer.__class__ = kind


def other_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of two or more dimensions that no `WeightLayer` holds, by name."""
    held = {id(p) for _, layer in weight_layers(model) for p in layer.parameters()}
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2 and id(p) not in held}


def tied_layers(model: nn.Module) -> frozenset[str]:
    """Return the paths of layers whose weight is also a parameter of another module."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(path if name == "weight" else f"{path}.{name}")
    return frozenset(path for paths in owners.values() if len(paths) > 1 for path in paths)


def _parts(state: WeightState) -> list[Grid | Codebook | Mask]:
    parts: list[Grid | Codebook | Mask] = []
    if state.grid is not None:
        parts.append(state.grid)
    if state.keep is not None:
        parts.append(Mask(state.keep))
    return parts
