"""Pairs of factors in a model, whose product is truncated where their rank is lowered again."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from kmr.instantiations.factored import Factorable, is_factorable
from kmr.instantiations.quantization import channel_dim, fit_like
from kmr.representation.activations import ActivationQuantizer, QuantizedLayer, quantize_activations
from kmr.representation.weights import WEIGHT_LAYERS, WeightState, read_weight, write_weight


@dataclass(frozen=True, eq=False)
class LayerPair:
    """Two layers in a row that factor one, as `matrix_pair` makes them.

    Args:
        first: maps the inputs to `rank` channels, without bias.
        second: maps these to the outputs, point by point.
    """

    first: Factorable
    second: Factorable

    @property
    def rank(self) -> int:
        """Number of channels between the two."""
        return int(self.first.weight.shape[0])

    @property
    def masked(self) -> bool:
        """Whether either has a mask."""
        return any(read_weight(layer).keep is not None for layer in (self.first, self.second))

    def matrix(self) -> Tensor:
        """Return the product of the two weights, of shape (outputs, inputs · kernel)."""
        first, second = (read_weight(layer).weight.flatten(1) for layer in (self.first, self.second))
        product = second.double() @ first.double()
        return product if first.dtype == torch.float64 else product.to(first.dtype)

    def truncate(self, first: Tensor, second: Tensor) -> bool:
        """Replace both weights by thinner factors, in place; grids keep their bits.

        Returns:
            Whether a calibrated grid of the activations between them was removed.
        """
        rank = len(first)
        for layer, weight in ((self.first, first), (self.second, second)):
            state = read_weight(layer)
            shape = (rank, *state.weight.shape[1:]) if layer is self.first else (len(second), rank)
            weight = weight.to(state.weight).reshape(*shape, *(1,) * (state.weight.dim() - len(shape))).contiguous()
            grid = None if state.grid is None else fit_like(state, weight, channel_dim(layer))
            write_weight(layer, WeightState(weight, grid))
        kind = "features" if isinstance(self.first, nn.Linear) else "channels"
        setattr(self.first, f"out_{kind}", rank)
        setattr(self.second, f"in_{kind}", rank)
        last: Any = self.second
        if not (isinstance(last, QuantizedLayer) and isinstance(last.input_quantizer, ActivationQuantizer)):
            return False
        quantize_activations(last, inputs=None, outputs=last.output_quantizer)
        return True


def find_pairs(model: nn.Module) -> dict[str, LayerPair]:
    """Return the pairs of factors in a model, by path."""
    found = {path: _as_pair(module) for path, module in model.named_modules() if isinstance(module, nn.Sequential)}
    return {path: pair for path, pair in found.items() if pair is not None}


def _as_pair(module: nn.Sequential) -> LayerPair | None:
    parts = dict(module.named_children())
    if list(parts) != ["first", "second"] or not all(isinstance(part, WEIGHT_LAYERS) for part in parts.values()):
        return None
    first, second = cast(Factorable, parts["first"]), cast(Factorable, parts["second"])
    if not (is_factorable(first) and is_factorable(second)) or first.bias is not None:
        return None
    if getattr(first, "output_quantizer", None) is not None or first.weight.dim() != second.weight.dim():
        return None
    if isinstance(second, nn.Linear):
        return LayerPair(first, second)
    convolution: Any = second
    points = second.weight[0, 0].numel() == 1 and {*convolution.stride} == {1} and not any(convolution.padding)
    return LayerPair(first, second) if points else None
