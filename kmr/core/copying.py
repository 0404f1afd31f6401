"""Copies of models, and the reason where a model cannot be copied."""

import copy

from torch import Tensor, nn

from kmr.core.errors import KMRError


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model.

    Raises:
        KMRError: the model holds what cannot be copied; the message names it.
    """
    _detach_stale(model)
    try:
        return copy.deepcopy(model)
    except (TypeError, RuntimeError, AttributeError) as error:
        holders = [path or type(model).__name__ for path, module in model.named_modules() if not _copies(module)]
        where = f" in {holders[-1]}" if holders else ""
        raise KMRError(
            f"the model cannot be copied{where}: {' '.join(str(error).split())}; keep what cannot be copied (locks, "
            "files, generators) outside the module, or give the module a __deepcopy__"
        ) from error


def _copies(module: nn.Module) -> bool:
    """Tell whether a module's own attributes can be copied."""
    known = set(vars(nn.Module()))
    try:
        copy.deepcopy({name: value for name, value in vars(module).items() if name not in known})
    except (TypeError, RuntimeError, AttributeError):
        return False
    return True


def _detach_stale(model: nn.Module) -> None:
    """Detach the weights that old norms left from a call with gradients, which cannot be copied otherwise."""
    for module in model.modules():
        for name, value in list(module.__dict__.items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                module.__dict__[name] = value.detach()
