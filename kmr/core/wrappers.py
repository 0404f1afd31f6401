"""Modules that wrap a model: `torch.compile`, `DataParallel` and `DistributedDataParallel`."""

from torch import nn


def without_wrappers(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return the module inside a model's wrappers, and the wrappers' names from outside inwards."""
    names: list[str] = []
    while True:
        kind = type(model).__name__
        inner = getattr(model, "_orig_mod", None) if kind == "OptimizedModule" else None
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model, names
        names.append(kind)
        model = inner
