"""Layers tied to one weight, and what each place keeps: a scale, a bias, a low-rank difference."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from kmr.instantiations.factored import Factorable, matrix_pair
from kmr.instantiations.lowrank import truncated_factors
from kmr.instantiations.quantization import channel_dim, fit_like
from kmr.instantiations.replace import replace_module
from kmr.instantiations.sharing.fit import Scale, shared_weight
from kmr.representation.activations import ActivationQuantizer, DynamicQuantizer, QuantizedLayer, quantize_activations
from kmr.representation.weights import WeightState, read_weight, write_weight


class ChannelAffine(nn.Module):
    """A scale and a shift of each channel, which a layer keeps when its weight is shared.

    Args:
        scale: of shape (channels,), or None.
        bias: of shape (channels,), or None.
        axes: dimensions of the input behind that of the channels.
    """

    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, scale: Tensor | None, bias: Tensor | None, axes: int) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("bias", bias)):
            self.register_parameter(name, None if value is None else _parameter(value))
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        if self.scale is not None:
            x = x * self.scale.reshape(-1, *(1,) * self.axes)
        return x if self.bias is None else x + self.bias.reshape(-1, *(1,) * self.axes)


class Corrected(nn.Module):
    """A shared layer plus a low-rank difference of one place.

    Args:
        shared: the layer used in several places, or the chain that starts with it.
        delta: two thin layers in a row.
    """

    def __init__(self, shared: nn.Module, delta: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.delta = delta

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        added: Tensor = self.shared(x) + self.delta(x)
        return added


def tie(model: nn.Module, layers: Sequence[Factorable], scale: Scale, rank: int = 0) -> nn.Module:
    """Tie several layers of one kind to one weight, in place; return the model.

    Args:
        model: the one that uses them.
        layers: the first of them takes every place.
        scale: of the shared weight in each place, see `shared_weight`.
        rank: of the difference that each place adds, the best approximation of its own weight less the shared one, on
            inputs that are not rounded; 0 for none.
    """
    states = [read_weight(layer) for layer in layers]
    weight, scales = shared_weight([state.weight for state in states], scale)
    keep = None
    if all(state.keep is not None for state in states):
        keep = torch.stack([cast(Tensor, state.keep) for state in states]).any(0)
    biases, training = [layer.bias for layer in layers], layers[0].training
    shared = layers[0]
    grid = None if states[0].grid is None else fit_like(states[0], weight, channel_dim(shared))
    write_weight(shared, WeightState(weight, grid, keep))
    shared.bias = None
    if isinstance(shared, QuantizedLayer):
        quantize_activations(shared, inputs=wide_enough(layers))
    axes, effective = 0 if isinstance(shared, nn.Linear) else weight.dim() - 2, read_weight(shared).weight
    pairs: list[nn.Module] = []
    for place, layer in enumerate(layers):
        own = None if scales is None else scales[place]
        made: nn.Module = shared
        if own is not None or biases[place] is not None:
            affine = ChannelAffine(own, biases[place], axes).train(training)
            if affine.scale is not None:
                affine.scale.requires_grad_(_is_trainable(layer))
            made = nn.Sequential(OrderedDict(shared=nn.Identity(), own=affine)).train(training)
            pairs.append(made)
        if rank:
            ours = effective if own is None else effective * own.reshape(-1, *(1,) * (weight.dim() - 1))
            factors = truncated_factors((states[place].weight - ours).flatten(1), rank)
            if made is shared:
                made = Corrected(nn.Identity(), matrix_pair(layer, *factors, ends=False)).train(training)
                pairs.append(made)
            else:
                made = Corrected(made, matrix_pair(layer, *factors, ends=False)).train(training)
        if made is not layer:
            model = replace_module(model, layer, made)
    # Only now: in its place before, the shared layer would have been replaced by a pair itself.
    for pair in pairs:
        pair.register_module("shared", shared)
    return model


def kind_of(layer: nn.Module) -> Hashable:
    """Return what two layers must have in common to become one."""
    state = read_weight(layer)
    spatial = ("stride", "padding", "dilation", "padding_mode")
    return (
        state.weight.shape, state.weight.dtype, state.weight.device, _is_trainable(layer), layer.training,
        *(getattr(layer, name, None) for name in spatial),
        None if state.grid is None else (type(state.grid), state.grid.bits), state.keep is None,
        isinstance(layer, QuantizedLayer), _rounding(layer),
    )  # fmt: skip


def _is_trainable(layer: nn.Module) -> bool:
    return next(p for name, p in layer.named_parameters() if name != "bias").requires_grad


def _rounding(layer: nn.Module) -> Hashable:
    match getattr(layer, "input_quantizer", None):
        case None:
            return None
        case DynamicQuantizer() as dynamic:
            return (dynamic.bits, dynamic.rows)
        case ActivationQuantizer() as static:
            return (static.bits, isinstance(static.affine, nn.Parameter), "fixed")
        case other:
            return id(other)


def wide_enough(layers: Sequence[nn.Module]) -> nn.Module | None:
    """Return an input quantizer whose range covers those of several layers of one kind."""
    quantizers = [cast(nn.Module | None, layer.input_quantizer) for layer in layers]
    first = quantizers[0]
    if not isinstance(first, ActivationQuantizer):
        return first
    lows, highs = [], []
    for each in quantizers:
        assert isinstance(each, ActivationQuantizer)
        scale, zero_point = float(each.scale.detach()), float(each.zero_point.detach())
        lows.append(-scale * zero_point)
        highs.append(scale * (2**each.bits - 1 - zero_point))
    scale = (max(highs) - min(lows)) / (2**first.bits - 1)
    zero_point = min(2**first.bits - 1, max(0, round(-min(lows) / scale)))
    return ActivationQuantizer(scale, zero_point, first.bits, learned=isinstance(first.affine, nn.Parameter))


def _parameter(value: Tensor) -> nn.Parameter:
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())
