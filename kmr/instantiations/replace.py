"""The replacement of one module of a model by another."""

from torch import nn


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module wherever another is used, in place; return the model (`new` if that was `old`)."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent.register_module(name, new)
    return model
