"""Holds of a model: the masks and grids that training must keep, and the traits that a rule declares in `leaves`."""

import torch
from torch import Tensor, nn

from kmr.core import Trait
from kmr.representation.activations import ActivationQuantizer
from kmr.representation.weights import Codebook, read_weight, weight_layers


def traits(model: nn.Module) -> set[Trait]:
    """Return the traits that can be detected in a model, which excludes its structure."""
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
    """Return a model's masks by layer."""
    read = {path: read_weight(layer).keep for path, layer in weight_layers(model)}
    return {path: keep.clone() for path, keep in read.items() if keep is not None}


def broken_masks(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Return the layers with a nonzero weight under a former mask."""
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
            if len(torch.unique(state.weight[(scale == one) & kept])) > allowed:
                found.append(path)
                break
    return found
