"""Weight norms and parametrizations of others, folded into the plain weights that they compute.

`torch.nn.utils.weight_norm`, `spectral_norm`, their parametrizations, `orthogonal` and a user's own parametrization
compute a weight from other tensors. In evaluation the weight is fixed, so that a plain weight of the same values is the
same model, exactly. Grids and masks of this project stay.
"""

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.core.copying import copied


def is_ours(layer: nn.Module, name: str = "weight") -> bool:
    """Tell whether all parametrizations of a tensor are this project's: grids, masks, adapters in training."""
    parts: Any = layer.parametrizations[name]  # type: ignore[index]
    return all(type(part).__module__.partition(".")[0] == "kmr" for part in parts)


def folded_as_stored(base: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a base model for stored tensors: a copy with folded norms, unless the tensors are those of norms.

    Args:
        base: as the user's function builds it; it is not changed.
        names: the names of the stored tensors.
    """
    of_norms = any(
        name.endswith(("weight_g", "weight_orig")) or "parametrizations" in name.split(".") for name in names
    )
    if of_norms or not _has_norms(base):
        return base
    twin = copied(base)
    fold_norms(twin)
    return twin


def _has_norms(model: nn.Module) -> bool:
    """Tell whether `fold_norms` would fold anything of a model."""
    return any(
        any(_is_norm(hook) for hook in module._forward_pre_hooks.values())
        or (parametrize.is_parametrized(module) and not all(is_ours(module, name) for name in _parametrized(module)))
        for module in model.modules()
    )


def _parametrized(module: nn.Module) -> list[str]:
    """Return the names of a module's parametrized tensors."""
    parts: Any = module.parametrizations
    return list(parts)


def _is_norm(hook: Any) -> bool:
    return type(hook).__name__ in ("WeightNorm", "SpectralNorm") and type(hook).__module__.startswith("torch.nn")


def fold_norms(model: nn.Module) -> list[str]:
    """Fold norms and parametrizations of others into plain weights, in place, as the model evaluates.

    Returns:
        The folded tensors, as `layer.weight`; none if there is nothing to fold.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    folded = []
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for name in _parametrized(module):
                if not is_ours(module, name):
                    _fold_parametrization(module, name)
                    folded.append(f"{path}.{name}".lstrip("."))
        for key, hook in list(module._forward_pre_hooks.items()):
            if _is_norm(hook):
                _remove(module, hook)
                module._forward_pre_hooks.pop(key, None)
                folded.append(f"{path}.{hook.name}".lstrip("."))
    for module, training in modes:
        module.training = training
    return folded


def _fold_parametrization(module: nn.Module, name: str) -> None:
    """Replace a parametrized tensor by a plain one of the same values, which trains if its parts did."""
    parts: Any = module.parametrizations[name]  # type: ignore[index]
    value = getattr(module, name).detach().clone()
    trains = any(parameter.requires_grad for parameter in parts.parameters())
    is_buffer = isinstance(getattr(parts, "original", None), Tensor) and not isinstance(parts.original, nn.Parameter)
    _own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    delattr(module, name)
    if is_buffer:
        module.register_buffer(name, value)
    else:
        module.register_parameter(name, nn.Parameter(value, requires_grad=trains))
    _forget_hooks(module)


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own, since copies share the class that removal changes."""
    shared = type(module)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)


def _remove(module: nn.Module, hook: Any) -> None:
    """Replace what a hook of torch's old norms computes by a plain parameter of the same values."""
    stale = getattr(module, hook.name, None)
    if isinstance(stale, Tensor):
        module.__dict__.pop(hook.name, None)
        setattr(module, hook.name, stale.detach())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hook.remove(module)
    _forget_hooks(module)


def _forget_hooks(module: nn.Module) -> None:
    """Remove the hooks by which torch's norms read state dicts of other versions."""
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            inner = getattr(hook, "hook", hook)
            name = getattr(inner, "__name__", type(inner).__name__)
            if "weight_norm" in name or "SpectralNorm" in name:
                del hooks[key]
