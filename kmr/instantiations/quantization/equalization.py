"""Cross-layer equalization (Nagel et al. 2019, section 4.1): equal ranges of weights with unchanged outputs.

In two layers with a ReLU between them, channel i of the first can be divided by s and input i of the second multiplied
by s. Let r₁ be the range of the channel's weights and r₂ that of the weights that read it. With s = √(r₁/r₂) both
become √(r₁·r₂), so that one grid for a whole tensor wastes few levels. It needs no data.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kmr.data import Inputs
from kmr.instantiations.quantization.calibration import uses
from kmr.representation.weights import read_weight, tied_layers

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def pairs_to_equalize(
    model: nn.Module, inputs: Inputs, governed: Callable[[str], bool] = lambda _: True
) -> list[tuple[str, str]]:
    """Return the path pairs of layers and their only readers, directly or through a ReLU."""
    modules, shared = dict(model.named_modules()), tied_layers(model)
    found = uses(model, inputs, through_relu=True)
    calls = Counter(reader for readers in found.values() for reader in readers)
    pairs = []
    for path, readers in found.items():
        others = [reader for reader in readers if reader not in ("relu", "relu_") and not _is_relu(modules.get(reader))]
        if len(others) != 1 or calls[others[0]] != 1 or len(readers) > 2:
            continue
        ends = (path, others[0])
        layers = [modules.get(end) for end in ends]
        if not all(isinstance(layer, _LAYERS) and getattr(layer, "groups", 1) == 1 for layer in layers):
            continue
        held = any(read_weight(layer).grid is not None for layer in layers if layer is not None)
        if not held and not set(ends) & shared and all(governed(end) for end in ends) and _fit(*layers):
            pairs.append(ends)
    return pairs


def equalize(model: nn.Module, inputs: Inputs, governed: Callable[[str], bool] = lambda _: True) -> nn.Module:
    """Equalize the ranges of weights across layers, in place; the model's outputs stay the same up to rounding.

    Fold normalisations first (`fold_norms`): a layer followed by one has no pair.

    Args:
        model: the model; its masks stay.
        inputs: a batch that the model runs on.
        governed: tells whether the layer at a path may change.
    """
    pairs = pairs_to_equalize(model, inputs, governed)
    # Consecutive pairs share channels, so convergence takes a few rounds.
    for _ in range(_ROUNDS):
        for first, second in pairs:
            _equalize(model.get_submodule(first), model.get_submodule(second))
    return model


_ROUNDS = 3


def _equalize(first: Any, second: Any) -> None:
    made, read = _latent(first), _latent(second)
    with torch.no_grad():
        of_first = made.flatten(1).abs().amax(1).double()
        of_second = read.transpose(0, 1).flatten(1).abs().amax(1).double()
        scale = torch.sqrt(of_first / of_second)
        usable = torch.isfinite(scale) & (scale > 0)
        scale = torch.where(usable, scale, torch.ones_like(scale)).to(made.dtype)
        made /= scale.view(-1, *[1] * (made.dim() - 1))
        if first.bias is not None:
            first.bias /= scale
        read *= scale.view(1, -1, *[1] * (read.dim() - 2))


def _latent(layer: Any) -> Tensor:
    if hasattr(layer, "parametrizations"):
        original: Tensor = layer.parametrizations.weight.original
        return original
    weight: Tensor = layer.weight
    return weight


def _fit(first: Any, second: Any) -> bool:
    return bool(first.weight.shape[0] == second.weight.shape[1] and first.weight.dim() == second.weight.dim())


def _is_relu(module: Any) -> bool:
    return isinstance(module, nn.ReLU)
