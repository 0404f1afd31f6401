"""Memory layout of a model: the order of its parameters and the strides of its tensors.

Both decide how sums round: in a norm over all gradients, or in a matrix product. An artifact stores them so that a
loaded model computes the same to the last bit.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def describe_layout(model: nn.Module, twin: nn.Module) -> dict[str, Any]:
    """Return, as JSON values, how a model's layout differs from that of a twin with the same names and shapes."""
    theirs = {path: list(module._parameters) for path, module in twin.named_modules()}
    ours = {path: list(module._parameters) for path, module in model.named_modules()}
    other = tensors_of(twin)
    return {
        "order": {path: names for path, names in ours.items() if theirs[path] != names},
        "strides": {
            name: list(tensor.stride())
            for name, tensor in tensors_of(model).items()
            if tensor.stride() != other[name].stride()
        },
    }


def apply_layout(model: nn.Module, description: Mapping[str, Any]) -> None:
    """Set a model's layout to the described one, in place; its values stay."""
    for path, names in description["order"].items():
        parameters = model.get_submodule(path)._parameters
        reordered = {name: parameters[name] for name in names}
        parameters.clear()
        parameters.update(reordered)
    found = tensors_of(model)
    for name, stride in description["strides"].items():
        tensor = found[name].detach()
        laid_out = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device)
        found[name].data = laid_out.copy_(tensor)
