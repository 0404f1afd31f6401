"""Factored layers: chains of smaller layers in place of one, for all kinds of factorisation.

A chain inherits the layer's state: the last part gets its bias, every part a grid of the same bits and scheme, and the
two ends its activation quantizers. A mask has no counterpart in factors, which are dense.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, cast

from torch import Tensor, nn

from kmr.instantiations.quantization import channel_dim, fit_like
from kmr.representation.activations import QuantizedLayer, quantize_activations
from kmr.representation.weights import WeightLayer, WeightState, read_weight, write_weight

Factorable: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def is_factorable(layer: WeightLayer) -> bool:
    """Tell whether a layer can be factored: an ungrouped linear layer or convolution with torch's own `forward`."""
    kind = next((kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind)), None)
    as_in_torch = kind is not None and (isinstance(layer, QuantizedLayer) or type(layer).forward is kind.forward)
    return as_in_torch and getattr(layer, "groups", 1) == 1


def attention_outputs(model: nn.Module) -> set[str]:
    """Return the paths of the output projections that `nn.MultiheadAttention` applies without calling them."""
    return {
        f"{path}.out_proj".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }


def convolution_class(layer: nn.Module) -> Any:
    """Return the convolution class of torch that a layer belongs to."""
    return next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind))


def _of(place: int, name: str) -> property:
    """Return a property that reads an attribute of a part."""
    return property(lambda pair: getattr(pair[place], name))


class FactoredPair(nn.Sequential):
    """Two layers in place of one, which offers that one's weight, bias and sizes to code that reads them."""

    in_features, out_features = _of(0, "in_features"), _of(1, "out_features")
    in_channels, out_channels = _of(0, "in_channels"), _of(1, "out_channels")
    kernel_size, stride, padding = _of(0, "kernel_size"), _of(0, "stride"), _of(0, "padding")
    dilation, groups, padding_mode = _of(0, "dilation"), _of(0, "groups"), _of(0, "padding_mode")
    bias = _of(1, "bias")
    # TorchScript would compile them.
    __jit_unused_properties__: ClassVar = [
        "weight", "bias", "in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride",
        "padding", "dilation", "groups", "padding_mode",
    ]  # fmt: skip

    @property
    def weight(self) -> Tensor:
        """The product of the two weights, in the shape of the replaced layer's, with gradients."""
        first, second = (cast(Tensor, part.weight) for part in (self[0], self[1]))
        return (second.flatten(1) @ first.flatten(1)).reshape(len(second), *first.shape[1:])


def matrix_pair(layer: Factorable, first: Tensor, second: Tensor, *, ends: bool = True) -> nn.Sequential:
    """Return a layer as a chain of two with the weights `first` (rank, n) and `second` (m, rank).

    Their product replaces the layer's weight as a matrix (m, n). For `ends` see `chained`.
    """
    rank = len(first)
    pair: dict[str, nn.Module]
    if isinstance(layer, nn.Linear):
        pair = {
            "first": nn.Linear(layer.in_features, rank, bias=False),
            "second": nn.Linear(rank, layer.out_features, bias=False),
        }
    else:
        convolution = convolution_class(layer)
        spatial: dict[str, Any] = {
            name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        pair = {
            "first": convolution(layer.in_channels, rank, **spatial, bias=False),
            "second": convolution(rank, layer.out_channels, kernel_size=1, bias=False),
        }
    return FactoredPair(OrderedDict(chained(layer, pair, (first, second), ends=ends).named_children())).train(
        layer.training
    )


def chained(
    layer: Factorable, parts: Mapping[str, nn.Module], weights: Sequence[Tensor], *, ends: bool = True
) -> nn.Sequential:
    """Return a chain of layers that replaces one and inherits its state.

    Args:
        layer: the layer to replace.
        parts: linear layers or convolutions without bias, by name, in order.
        weights: a tensor for each part, with as many entries as its weight.
        ends: whether the first and last part inherit the layer's bias and activation quantizers.
    """
    state = read_weight(layer)
    trainable = next(p for name, p in layer.named_parameters() if name != "bias").requires_grad
    made = list(parts.values())
    for part, weight in zip(made, weights, strict=True):
        part.to(device=state.weight.device, dtype=state.weight.dtype)
        weight = weight.to(state.weight).reshape(cast(nn.Parameter, part.weight).shape).contiguous()
        grid = None if state.grid is None else fit_like(state, weight, channel_dim(part))
        cast(nn.Parameter, part.weight).requires_grad_(trainable)
        write_weight(part, WeightState(weight, grid))
    if ends and layer.bias is not None:
        made[-1].bias = layer.bias
    if ends and isinstance(layer, QuantizedLayer):
        quantize_activations(made[0], inputs=layer.input_quantizer)
        quantize_activations(made[-1], inputs=None, outputs=layer.output_quantizer)
    return nn.Sequential(OrderedDict(parts)).train(layer.training)
