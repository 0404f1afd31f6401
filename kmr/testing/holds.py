"""Holds of a model: masks, grids and layouts that training must keep, and what a rule says that it leaves."""

import torch
from torch import Tensor, nn

from kmr.core import Trait
from kmr.representation.activations import ActivationQuantizer
from kmr.representation.weights import Codebook, read_weight, weight_layers


def traits(model: nn.Module) -> set[Trait]:
    """Return the traits of a model that can be read off it, which leaves out its structure."""
    states = [read_weight(layer) for _, layer in weight_layers(model)]
    found: set[Trait] = set()
    if any(state.keep is not None for state in states):
        found.add("masks")
    if any(state.grid is not None for state in states):
        found.add("weight grids")
    if any(isinstance(module, ActivationQuantizer) for module in model.modules()):
        found.add("activation grids")
    return found


def masks(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks of a model by layer."""
    read = {path: read_weight(layer).keep for path, layer in weight_layers(model)}
    return {path: keep.clone() for path, keep in read.items() if keep is not None}


def broken_masks(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Return the layers with a weight other than 0 where a mask was."""
    layers = dict(weight_layers(model))
    return [path for path, keep in before.items() if bool((read_weight(layers[path]).weight[~keep] != 0).any())]


def off_grid(model: nn.Module) -> list[str]:
    """Return the layers whose weights do not lie on their grid."""
    found = []
    for path, layer in weight_layers(model):
        state = read_weight(layer)
        if state.grid is None:
            continue
        if isinstance(state.grid, Codebook) or state.grid.group:
            if not torch.equal(state.grid.values(state.grid.codes(state.weight)), state.weight):
                found.append(path)
            continue
        scale = state.grid.scale.expand_as(state.weight)
        kept = torch.ones_like(state.weight, dtype=torch.bool) if state.keep is None else state.keep
        for one in torch.unique(scale):
            allowed = 2**state.grid.bits * int((state.grid.scale == one).sum())
            if len(set(state.weight[(scale == one) & kept].tolist())) > allowed:
                found.append(path)
                break
    return found
