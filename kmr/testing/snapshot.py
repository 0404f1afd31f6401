"""Snapshots of a model and of the process, to detect the side effects of a call."""

import gc
import importlib
import random
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return, by name, the state of a model and the process that rules, meters and policies must not change."""
    found: dict[str, Any] = {f"tensor {name}": tensor for name, tensor in tensors(model).items()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[f"identity of {name}"] = id(parameter)
        found[f"requires_grad of {name}"] = parameter.requires_grad
        found[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, mode in modes(model).items():
        found[f"train or eval mode of {name}"] = mode
    found["number of hooks"] = hooks(model)
    found["random state of torch"] = torch.get_rng_state()
    found["random state of Python"] = random.getstate()
    found["random state of NumPy"] = str(_numpy_state())
    found["number of threads"] = torch.get_num_threads()
    found["gradient mode"] = torch.is_grad_enabled()
    found["garbage collection"] = gc.isenabled()
    found["fast path of attention"] = torch.backends.mha.get_fastpath_enabled()
    found["oneDNN"] = torch._C._get_mkldnn_enabled()
    found["cuDNN"] = torch.backends.cudnn.enabled
    found["flash attention"] = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    return found


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers by name, including non-persistent buffers."""
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {name: tensor.detach().clone() for name, tensor in named}


def modes(model: nn.Module) -> dict[str, bool]:
    """Return whether each module is in training mode, by its path."""
    return {path or "the model": module.training for path, module in model.named_modules(remove_duplicate=False)}


def hooks(model: nn.Module) -> int:
    """Return the number of forward hooks on all modules of a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of the entries that differ between two snapshots, or between two models' tensors."""
    names = dict.fromkeys((*before, *after))
    return [name for name in names if name not in before or name not in after or differ(before[name], after[name])]


def differ(one: Any, other: Any) -> bool:
    """Tell whether two values differ; tensors are compared bit by bit, except that NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return True
        same = (one == other) | ((one != one) & (other != other))
        return not bool(same.all())
    return bool(one != other)


def _numpy_state() -> Any:
    try:
        return importlib.import_module("numpy").random.get_state()
    except ImportError:  # torch runs without NumPy
        return None
