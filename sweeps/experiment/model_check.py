"""A check that a model is what it computes, before anything is trained.

Its next call, its copy, and the same model built again and loaded must give the same outputs. Copies are also compared
with changed weights: a copy whose forward reads the original's tensors differs from it only then.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kmr.core import KMRError, Task, isolated_rng
from kmr.core.copying import copied
from kmr.core.wrappers import without_wrappers
from kmr.data import Split, map_tensors

_CLOSE = 1e-3
"""The relative difference of outputs that kernels may cause in single precision."""

_REBUILT_SEED = 1


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`, and say so."""
    model, wrappers = without_wrappers(model)
    for kind in wrappers:
        print(f"model: took it out of {kind}", flush=True)
    return model


def check_model(model: nn.Module, split: Split, task: Task, rebuild: Callable[[], nn.Module] | None = None) -> None:
    """Run a model and copies of it on two batches in turn, with its own and with changed weights; compare outputs.

    Args:
        model: its modes and tensors stay as they are, but lazy parameters get their shapes.
        split: where the batches come from.
        task: says how a batch goes in and what comes out.
        rebuild: builds the model again, as loading a saved one does; called only where tensors lie outside the state
            dict.

    Raises:
        KMRError: outputs differ between calls or from a copy's; the message says how and what to do.
    """
    first, other = _two_batches(split)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            if any(is_lazy(parameter) for parameter in model.parameters()):
                _outputs(model, first, task)
            if rebuild is not None and (outside := _outside_state(model)):
                _check_rebuilt(model, outside, rebuild, first, task)
            called, fresh = copied(model), copied(model)
            _check_calls(called, first, other, task)
            _change(called, in_place=False)
            _change(fresh, in_place=False)
            of_called, of_fresh = _outputs(called, first, task), _outputs(fresh, first, task)
            right = _outputs_with_changed_weights(model, first, task)
    finally:
        for module, training in modes:
            module.training = training
    if not _close(right, of_fresh):
        raise KMRError(
            "a copy of the model computes something else: a closure, a hook, a list or an object that is no module "
            "holds tensors of the model, so that compressing a copy would not change what it computes; keep modules "
            "and parameters as attributes, and read them through self in forward"
        )
    if not _close(of_fresh, of_called):
        raise KMRError(
            "the model keeps what its first call computed from its weights, so that a later change of the weights has "
            "no effect: compute it in every call"
        )


def _check_calls(model: nn.Module, first: Any, other: Any, task: Task) -> None:
    known = set(model.state_dict())
    before = _outputs(model, first, task)
    _outputs(model, other, task)
    again = _outputs(model, first, task)
    elsewhere = _outputs(model, first, task, seed=1)
    if added := sorted(set(model.state_dict()) - known):
        raise KMRError(f"the model's first call adds {added[0]} to it: create it in __init__")
    if not _close(before, again):
        raise KMRError(
            "the model's outputs for a batch depend on the calls before it: it keeps state in evaluation mode, or has "
            "a random generator of its own; reset the state at the start of forward, or update it in training mode only"
        )
    if not _close(before, elsewhere):
        raise KMRError(
            "the model draws random numbers in evaluation mode, so that no reading can be repeated: use nn.Dropout, "
            "which model.eval() switches off, or pass training=self.training to functions such as F.dropout"
        )


def _check_rebuilt(
    model: nn.Module, outside: dict[str, Tensor], rebuild: Callable[[], nn.Module], inputs: Any, task: Task
) -> None:
    with isolated_rng(_REBUILT_SEED):
        again = rebuild().eval()
    try:
        again.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise KMRError(f"the model differs each time it is built: {' '.join(str(error).split())}") from error
    if _close(_outputs(copied(model), inputs, task), _outputs(again, inputs, task)):
        return
    found = _outside_state(again)
    differ = [name for name, value in outside.items() if name not in found or not _close([value], [found[name]])]
    named = ", ".join(differ[:3]) or "something"
    raise KMRError(
        f"the model built again with the same state dict computes something else: {named} is not in the state dict and "
        "differs each time the model is built; store it with self.register_buffer"
    )


def _two_batches(split: Split) -> tuple[Any, Any]:
    """Return the inputs of two batches of one size; of the same samples in another order if there is only one."""
    few = split.subset(16)
    few = replace(few, batch_size=max(1, len(few) // 2))
    found = [inputs for inputs, _ in few.batches()]
    return found[0], found[1] if len(found) > 1 else next(few.batches(shuffle_seed=1))[0]


def _outside_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a state dict leaves out: buffers that are not persistent, and plain attributes."""
    found = {}
    for path, module in model.named_modules():
        hidden = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        for name, value in (*hidden.items(), *vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is None:
                found[f"{path}.{name}".lstrip(".")] = value.detach().clone()
    return found


def _change(model: nn.Module, *, in_place: bool) -> None:
    """Change every parameter by the same noise in every copy, in place or, as rules do, by another parameter."""
    noise = torch.Generator().manual_seed(0)
    changed: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None or not parameter.is_floating_point():
                continue
            if parameter not in changed:
                drawn = torch.rand(parameter.shape, generator=noise).to(parameter)
                value = parameter * (0.75 + 0.5 * drawn) + 0.01 * (drawn - 0.5)
                made = parameter.copy_(value) if in_place else nn.Parameter(value, parameter.requires_grad)
                changed[parameter] = made  # type: ignore[assignment]
            setattr(module, name, changed[parameter])


def _outputs_with_changed_weights(model: nn.Module, inputs: Any, task: Task) -> list[Tensor]:
    """Change the model itself, run it, and give it its own weights and buffers back."""
    own = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        _change(model, in_place=True)
        return _outputs(model, inputs, task)
    finally:
        for tensor, value in own:
            tensor.copy_(value)


def _outputs(model: nn.Module, inputs: Any, task: Task, seed: int = 0) -> list[Tensor]:
    found: list[Tensor] = []
    with isolated_rng(seed):
        outputs = task.outputs(task.call(model, inputs))
    map_tensors(lambda tensor: found.append(tensor.detach().cpu().clone()), outputs)
    return found


def _close(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(_alike(*pair) for pair in zip(one, other, strict=True))


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    close = max(_CLOSE, 4 * torch.finfo(one.dtype).eps) if one.is_floating_point() else 0.0
    one, other = one.double(), other.double()
    size = float(one.abs().nan_to_num(posinf=0.0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=close, atol=close / 10 * size, equal_nan=True)
