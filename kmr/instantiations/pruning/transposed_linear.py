"""Pruner for linear layers with weights of shape (inputs, outputs), as in GPT-2 of `transformers`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def transposed_linear_pruner() -> Any:
    """Return a pruner of such layers for Torch-Pruning, which does not know them."""
    from torch_pruning.pruner.function import BasePruningFunc

    made = type("TransposedLinearPruner", (_Cuts, BasePruningFunc), {})()
    made.TARGET_MODULES = nn.Module
    return made


class _Cuts:
    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        keep = _without(layer.weight.shape[1], idxs)
        layer.weight = nn.Parameter(layer.weight.data[:, keep])
        layer.bias = nn.Parameter(layer.bias.data[keep])
        layer.nf = len(keep)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        keep = _without(layer.weight.shape[0], idxs)
        layer.weight = nn.Parameter(layer.weight.data[keep])
        layer.nx = len(keep)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[1])

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[0])


def _without(size: int, removed: Sequence[int]) -> Tensor:
    keep = torch.ones(size, dtype=torch.bool)
    keep[list(removed)] = False
    return keep.nonzero().reshape(-1)
