"""Anatomy of a compressed model: width, rank, bits, remaining weights and stored bytes by layer, beside the base's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from kmr.artifact.packing import pack
from kmr.representation.weights import WeightLayer, read_weight, weight_layers


@dataclass(frozen=True)
class LayerAnatomy:
    """A layer of the base model and its replacement in the compressed one; `…_of` fields describe the base.

    `width` counts outputs. `rank` is the narrowest width inside the replacement (None for a single layer, whose rank is
    not bounded). `bits` is the maximum per stored weight. `kept` is the share of the base's weights that remain and are
    not masked; it exceeds 1 if there are more. `bytes` is the size that `kmr.artifact.packing` stores for all its
    tensors.
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
    """Compare a compressed model with its base, layer by layer; removed layers have width 0.

    The modules at or below a layer's path count as its replacement. Neither model is changed.
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
