"""What became of each layer: its width, rank, bits, kept weights and stored bytes beside the base model's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from kmr.artifact.packing import pack
from kmr.representation.weights import WeightLayer, read_weight, weight_layers


@dataclass(frozen=True)
class LayerAnatomy:
    """A layer of the base model and what stands in its place now; `…_of` is what the base has.

    `width` counts outputs, `rank` is the narrowest width on the way through (None where it is one layer, whose rank is
    not bounded), `bits` are the most that a stored weight takes, `kept` the share of the base's weights that are left
    and not masked (above 1 where there are more), `bytes` what `kmr.artifact.packing` stores for all of its tensors.
    """

    layer: str
    width: int
    width_of: int
    rank: int | None
    rank_of: int
    bits: float
    bits_of: float
    kept: float
    bytes: int
    bytes_of: int


def anatomy(base: nn.Module, model: nn.Module) -> list[LayerAnatomy]:
    """Compare a compressed model with its base, layer by layer; layers that are gone have a width of 0.

    A layer is found by its path: what stands there, or below, took its place. Neither model is changed.
    """
    layers = dict(weight_layers(model))
    stored, stored_of = _bytes(model), _bytes(base)
    found = []
    for path, layer in weight_layers(base):
        parts = [part for name, part in layers.items() if name == path or name.startswith(f"{path}.")]
        weights = [read_weight(part) for part in parts]
        entries = sum(w.weight.numel() if w.keep is None else int(w.keep.expand(w.weight.shape).sum()) for w in weights)
        widths = [_width(part) for part in parts]
        found.append(
            LayerAnatomy(
                layer=path,
                width=widths[-1] if widths else 0,
                width_of=_width(layer),
                rank=min(widths) if len(widths) > 1 else None,
                rank_of=min(layer.weight.shape[0], math.prod(layer.weight.shape[1:])),
                bits=max(
                    (w.grid.bits if w.grid is not None else 8 * w.weight.element_size() for w in weights), default=0
                ),
                bits_of=8 * layer.weight.element_size(),
                kept=entries / layer.weight.numel(),
                bytes=_below(stored, path),
                bytes_of=_below(stored_of, path),
            )
        )
    return found


def _width(layer: WeightLayer) -> int:
    found = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
    return int(found or layer.weight.shape[0])


def _bytes(model: nn.Module) -> dict[str, int]:
    return {name: tensor.numel() * tensor.element_size() for name, tensor in pack(model).tensors.items()}


def _below(stored: Mapping[str, int], path: str) -> int:
    return sum(size for name, size in stored.items() if name.startswith(f"{path}."))
