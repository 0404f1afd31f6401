"""Weights shared across layers (Algorithm 9): layers of one shape become the same layer, stored once."""

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, cast, final

import torch
from torch import Tensor, nn

from kmr.activations import ActivationQuantizer, DynamicQuantizer, QuantizedLayer, quantize_activations
from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.factored import Factorable, attention_outputs, is_factorable, replace_module
from kmr.instantiations.layers import LayerRule
from kmr.instantiations.quantization import channel_dim, fit_like
from kmr.instantiations.sharing.fit import Merge, Scale, merges, shared_weight
from kmr.weights import WeightState, read_weight, write_weight

_Ranked: TypeAlias = tuple[float, int, Merge, list[Factorable]]
"""What a merger loses for each weight it saves, the number of the kind of layer, the merger, the layers."""


class ChannelAffine(nn.Module):
    """Multiplies and shifts each channel: what stays a layer's own when its weight is shared.

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


@final
@dataclass(frozen=True, kw_only=True)
class WeightSharing(LayerRule):
    """Let layers that compute alike on one shape of weight be one layer, which the model then uses several times.

    The value is the share of the mergers that are done, of all that lead to one weight for each kind of layer: those
    first that change the weights least, relative to their norms, for each weight saved. Biases and scales stay each
    layer's own. Further rules find one layer, used in several places; the same grid then holds everywhere. Only
    layers on grids of the same bits merge; a mask becomes what any of the layers keeps, and a fixed grid of inputs
    reaches as far as any of theirs.

    Args:
        scale: what a layer multiplies the shared weight by: one number for each output `channel`, one for the whole
            `layer` (stored as one for each channel), or `none`.
    """

    name: str = "share"
    scale: Scale = "channel"
    setting: ClassVar[str] = "ratio"
    domain: ClassVar[Domain] = FloatRange(0.0, 1.0, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in ("none", "layer", "channel"):
            raise KMRError(f"the scale of {self.name} must be none, layer or channel, not {self.scale!r}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"masks", "activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.weights_of(model, knob)
        read = attention_outputs(model)
        left = {
            path
            for path, layer in layers.items()
            if not is_factorable(layer) or getattr(layer, "output_quantizer", None) is not None or path in read
        }
        self.report(left, "left as they are: groups, outputs on a grid, code of their own, or read by attention")
        kinds: dict[Hashable, list[Factorable]] = {}
        for path, layer in layers.items():
            if path not in left:
                kinds.setdefault(_kind(layer), []).append(cast(Factorable, layer))
        ranked = [entry for number, alike in enumerate(kinds.values()) for entry in self._ranked(number, alike)]
        if not ranked:
            raise NotApplicable(f"{knob.name}={value}: no two layers are of the same kind and shape")
        count = max(1, math.floor(float(value) * len(ranked) + 0.5))
        for alike, sets in _chosen(sorted(ranked, key=lambda entry: entry[:2])[:count]):
            for places in sets:
                model = self._tie(model, [alike[place] for place in sorted(places)])
        leave_fast_path(model)
        return model

    def _ranked(self, number: int, alike: list[Factorable]) -> list[_Ranked]:
        """Return the mergers of layers of one kind, each with what it loses for each weight it saves."""
        saved = alike[0].weight.numel() - (0 if self.scale == "none" else 2 * len(alike[0].weight))
        if saved <= 0:
            return []
        ranked: list[_Ranked] = []
        for merge in merges([read_weight(layer).weight for layer in alike], self.scale):
            # A merger comes after those that it builds on, even if they lost more.
            worst = max(merge.loss / saved, ranked[-1][0] if ranked else 0.0)
            ranked.append((worst, number, merge, alike))
        return ranked

    def _tie(self, model: nn.Module, layers: list[Factorable]) -> nn.Module:
        states = [read_weight(layer) for layer in layers]
        weight, scales = shared_weight([state.weight for state in states], self.scale)
        keep = None
        if all(state.keep is not None for state in states):
            keep = torch.stack([cast(Tensor, state.keep) for state in states]).any(0)
        biases, training = [layer.bias for layer in layers], layers[0].training
        shared = layers[0]
        grid = None if states[0].grid is None else fit_like(states[0], weight, channel_dim(shared))
        write_weight(shared, WeightState(weight, grid, keep))
        shared.bias = None
        if isinstance(shared, QuantizedLayer):
            quantize_activations(shared, inputs=_wide_enough(layers))
        axes = 0 if isinstance(shared, nn.Linear) else weight.dim() - 2
        pairs: list[nn.Sequential] = []
        for place, layer in enumerate(layers):
            own = None if scales is None else scales[place]
            if own is not None or biases[place] is not None:
                affine = ChannelAffine(own, biases[place], axes).train(training)
                if affine.scale is not None:
                    affine.scale.requires_grad_(_is_trainable(layer))
                pairs.append(nn.Sequential(OrderedDict(shared=nn.Identity(), own=affine)).train(training))
                model = replace_module(model, layer, pairs[-1])
            elif layer is not shared:
                model = replace_module(model, layer, shared)
        # Only now: in its place before, the shared layer would have been replaced by a pair itself.
        for pair in pairs:
            pair.register_module("shared", shared)
        return model


def _chosen(ranked: list[_Ranked]) -> list[tuple[list[Factorable], list[set[int]]]]:
    """Return, for each kind of layer, its layers and the sets of them that the mergers make."""
    sets: dict[int, list[set[int]]] = {}
    kinds: dict[int, list[Factorable]] = {}
    for _, number, merge, alike in ranked:
        kinds[number] = alike
        new = {*merge.one, *merge.other}
        sets[number] = [*(old for old in sets.get(number, []) if not old & new), new]
    return [(kinds[number], sets[number]) for number in kinds]


def _kind(layer: nn.Module) -> Hashable:
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


def _wide_enough(layers: Sequence[nn.Module]) -> nn.Module | None:
    """Return a quantizer that reaches as far as those of the inputs of several layers, which are of one kind."""
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
