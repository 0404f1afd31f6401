"""Linear layers with weights of shape (inputs, outputs), as in GPT-2 of `transformers`, made linear layers of torch."""

from collections import Counter
from typing import Any, TypeGuard

from torch import nn


def plain_linears(model: nn.Module) -> nn.Module:
    """Replace such layers by `nn.Linear` of the same values, in place; return the model.

    Every rule then reaches their weights. Layers with hooks, parametrizations or a weight of others stay.
    """
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    made: dict[int, nn.Module] = {}
    for parent in [nn.ModuleDict({"model": model}), *model.modules()]:
        for name, child in parent._modules.items():
            if is_transposed_linear(child) and owners[id(child.weight)] == 1:
                parent._modules[name] = made.setdefault(id(child), _plain(child))
    return made.get(id(model), model)


def transposed_again(model: nn.Module, like: nn.Module) -> nn.Module:
    """Undo `plain_linears` in place where another model has such layers; return the model."""
    theirs = dict(like.named_modules())
    for path, module in list(model.named_modules()):
        wanted: Any = theirs.get(path)
        if path and type(module) is nn.Linear and is_transposed_linear(wanted) and module.bias is not None:
            wanted.weight, wanted.bias = nn.Parameter(module.weight.detach().t().contiguous()), module.bias
            wanted.nx, wanted.nf = wanted.weight.shape
            model.set_submodule(path, wanted)
    return model


def is_transposed_linear(module: Any) -> TypeGuard[Any]:
    """Tell whether a module is the linear layer of GPT-2 in `transformers`, without hooks."""
    kind = type(module)
    if kind.__name__ != "Conv1D" or not kind.__module__.startswith("transformers."):
        return False
    return not any(vars(module)[hooks] for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))


def _plain(layer: Any) -> nn.Module:
    inputs, outputs = layer.weight.shape
    plain = nn.Linear(inputs, outputs, device="meta").train(layer.training)
    plain.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=layer.weight.requires_grad)
    plain.bias = layer.bias
    return plain
