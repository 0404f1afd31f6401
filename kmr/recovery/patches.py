"""Linear and convolution layers as one matrix product: their inputs and outputs at selected places.

A place is one row of that product: in a linear layer a sample (or one of its tokens), in a convolution one output
position of one sample. Layers of the same kind, kernel and stride have the same places, whatever their channels.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Product: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""The layer classes that are a product with a matrix."""

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_product(layer: nn.Module) -> bool:
    """Tell whether a layer computes a matrix product; a subclass with its own `forward` may compute something else."""
    kind = next((kind for kind in _KINDS if isinstance(layer, kind)), None)
    return kind is not None and type(layer).forward is kind.forward


def count_places(layer: nn.Module, outputs: Tensor) -> int:
    """Return the number of places in an output of a layer."""
    return outputs.numel() // outputs.shape[_channel_dim(layer, outputs)]


def outputs_at(layer: nn.Module, outputs: Tensor, places: Tensor) -> Tensor:
    """Return the outputs at the given places, shape (places, channels)."""
    last = outputs.movedim(_channel_dim(layer, outputs), -1)
    return last[_indices(places, last.shape[:-1])]


def inputs_at(layer: Product, inputs: Tensor, places: Tensor) -> Tensor:
    """Return the inputs that the layer's weight multiplies at the given places, shape (groups, places, k)."""
    if isinstance(layer, nn.Linear):
        return inputs[_indices(places, inputs.shape[:-1])][None]
    spatial = len(layer.kernel_size)
    windows = _padded(layer, inputs if inputs.dim() == spatial + 2 else inputs[None])
    for dim, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=2
    ):
        windows = windows.unfold(dim, (size - 1) * dilation + 1, stride)[..., ::dilation]
    # (samples, channels, positions…, kernel…)
    at = _indices(places, (windows.shape[0], *windows.shape[2 : 2 + spatial]))
    chosen: tuple[Any, ...] = (at[0], slice(None), *at[1:])
    found = windows[chosen]
    return found.reshape(len(places), layer.groups, -1).movedim(1, 0)


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight, or its mask, as (groups, outputs, k)."""
    return weight.reshape(groups_of(layer), weight.shape[0] // groups_of(layer), math.prod(weight.shape[1:]))


def groups_of(layer: nn.Module) -> int:
    """Return the number of groups of a layer's channels; 1 for a linear layer."""
    return int(getattr(layer, "groups", 1))


def _indices(places: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    return torch.unravel_index(places, torch.Size(shape))


def _channel_dim(layer: nn.Module, outputs: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return outputs.dim() - 1
    return outputs.dim() - 1 - len(layer.kernel_size)  # type: ignore[arg-type]


def _padded(layer: Any, inputs: Tensor) -> Tensor:
    amounts = layer._reversed_padding_repeated_twice
    return F.pad(inputs, amounts, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
