"""A check that a model is what it computes, before anything is trained: its copy and its next call give the same."""

from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError, Task, isolated_rng
from kmr.core.norms import copied
from kmr.data import Split

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
"""Differences of outputs that kernels may cause."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`, and say so."""
    while True:
        kind = type(model).__name__
        inner = getattr(model, "_orig_mod", None) if kind == "OptimizedModule" else None
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        print(f"model: took it out of {kind}", flush=True)
        model = inner


def check_model(model: nn.Module, split: Split, task: Task) -> None:
    """Run a model and its copy on two batches in turn and compare their outputs.

    Args:
        model: in evaluation mode.
        split: where the batches come from.
        task: says how a batch goes in and what comes out.

    Raises:
        KMRError: outputs differ between calls or from the copy's; the message says how and what to do.
    """
    few = split.subset(8)
    first = next(few.batches())[0]
    other = next(few.batches(shuffle_seed=1))[0]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            before = _outputs(model, first, task, seed=0)
            _outputs(model, other, task, seed=0)
            again = _outputs(model, first, task, seed=0)
            elsewhere = _outputs(model, first, task, seed=1)
            twin = copied(model).eval()
            _outputs(model, other, task, seed=0)
            of_copy = _outputs(twin, first, task, seed=0)
    finally:
        for module, training in modes:
            module.training = training
    if not _close(before, again):
        raise KMRError(
            "the model's outputs for a batch depend on the calls before it: it keeps state in evaluation mode; reset "
            "the state at the start of forward, or update it in training mode only"
        )
    if not _close(before, elsewhere):
        raise KMRError(
            "the model draws random numbers in evaluation mode, so that no reading can be repeated: use nn.Dropout, "
            "which model.eval() switches off, or pass training=self.training to functions such as F.dropout"
        )
    if not _close(before, of_copy):
        raise KMRError(
            "a copy of the model computes something else: a closure, a hook or an attribute points at the original's "
            "tensors, so that compressing a copy would not change what it computes; keep modules and parameters as "
            "attributes, and read them through self in forward"
        )


def _outputs(model: nn.Module, inputs: Any, task: Task, seed: int) -> Any:
    with isolated_rng(seed):
        found = task.outputs(task.call(model, inputs))
    return found.detach().clone() if isinstance(found, Tensor) else None


def _close(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return True
    if one.shape != other.shape:
        return False
    return torch.allclose(one.float(), other.float(), equal_nan=True, **CLOSE)
