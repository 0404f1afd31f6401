"""Folding of batch normalisation into the layer before it (Jacob et al. 2018, section 3.2), as integer runtimes do.

With running statistics μ, σ² and affine γ, β the pair computes γ/√(σ²+ε)·(W∗x + b − μ) + β: one layer with weight
γ/√(σ²+ε)·W and bias γ/√(σ²+ε)·(b − μ) + β. Later training uses the folded weight with frozen statistics, so that
training and inference round the same numbers (Nagel et al. 2021, section 4.2: static folding).
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kmr.data import Inputs
from kmr.instantiations.quantization.calibration import uses
from kmr.representation.weights import WeightState, read_weight, tied_layers, write_weight

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def pairs_to_fold(
    model: nn.Module, inputs: Inputs, governed: Callable[[str], bool] = lambda _: True
) -> list[tuple[str, str]]:
    """Return the path pairs of layers and the batch normalisations that are their only readers, from one forward pass.

    Layers with a grid, a shared weight or a path that is not governed are skipped.
    """
    modules = dict(model.named_modules())
    shared = tied_layers(model)
    found = uses(model, inputs)
    calls = Counter(reader for readers in found.values() for reader in readers)
    pairs = []
    for path, readers in found.items():
        if len(readers) != 1 or calls[readers[0]] != 1 or path in shared or not governed(path):
            continue
        layer, norm = modules[path], modules.get(readers[0])
        if (
            isinstance(layer, _LAYERS)
            and isinstance(norm, _NORMS)
            and norm.running_var is not None
            and read_weight(layer).grid is None
        ):
            pairs.append((path, readers[0]))
    return pairs


def fold_norms(model: nn.Module, inputs: Inputs, governed: Callable[[str], bool] = lambda _: True) -> nn.Module:
    """Fold batch normalisations into the layers before them and replace them by `nn.Identity`, in place.

    Args:
        model: the model; its masks stay.
        inputs: a batch that the model runs on.
        governed: tells whether the layer at a path may change.
    """
    for path, norm_path in pairs_to_fold(model, inputs, governed):
        layer, norm = model.get_submodule(path), model.get_submodule(norm_path)
        _fold(layer, norm)
        parent, _, name = norm_path.rpartition(".")
        identity = nn.Identity().train(norm.training)
        model.get_submodule(parent).register_module(name, identity)
    return model


def _fold(layer: Any, norm: Any) -> None:
    factor, shift = _affine(norm)
    state = read_weight(layer)
    weight = (state.weight.double() * _along_outputs(layer, factor)).to(state.weight.dtype)
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    trainable = next(p.requires_grad for name, p in layer.named_parameters() if name != "bias")
    write_weight(layer, WeightState(weight, None, state.keep))
    folded = (factor * bias + shift).to(weight.dtype)
    layer.bias = nn.Parameter(folded, requires_grad=trainable)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return factor and shift of a normalisation with running statistics, in double precision."""
    factor = torch.rsqrt(norm.running_var.detach().double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.detach().double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return factor, shift


def _along_outputs(layer: Any, factor: Tensor) -> Tensor:
    """Reshape one number for each output channel so that it multiplies a layer's weight."""
    dims = layer.weight.dim()
    if not isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return factor.view(-1, *[1] * (dims - 1))
    # The weight has shape (inputs, outputs of a group, …): the inputs of a group lead to its own outputs.
    by_group = factor.view(layer.groups, 1, -1).expand(-1, layer.in_channels // layer.groups, -1)
    return by_group.reshape(layer.in_channels, -1, *[1] * (dims - 2))
