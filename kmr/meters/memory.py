"""Peak memory of a forward pass, without the weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kmr.core import Cost, Reading, device_of
from kmr.data import Inputs, call, fit_inputs
from kmr.meters.deployment import batch_of
from kmr.representation.weights import strip_all


@final
@dataclass(frozen=True, kw_only=True)
class PeakMemory(Cost):
    """The largest total size of all tensors alive at one time in a forward pass, including its inputs.

    Unit: B. Range: [0, ∞). Direction: minimize.

    Weights and buffers do not count. On CUDA the reading is that of PyTorch's allocator, in its blocks of 512 bytes and
    with the kernels' workspaces. Elsewhere the meter follows PyTorch's dispatcher: the reading is exact for eager
    PyTorch without workspaces, and equal on every machine. A runtime that fuses operations needs less.

    Args:
        example_inputs: a batch as the model takes it.
        batch: samples in the batch; None takes the whole batch.
    """

    example_inputs: Inputs = field(repr=False, compare=False)
    batch: int | None = 1
    name: str = "peak_memory"
    unit: str = field(init=False, default="B")

    def read(self, seen: nn.Module) -> Reading:
        model = strip_all(copy.deepcopy(seen)).eval()
        inputs = fit_inputs(model, batch_of(self.example_inputs, self.batch))
        if device_of(model).type == "cuda":
            return Reading(float(_allocated(model, inputs)))
        live = _Live([*model.parameters(), *model.buffers()], tree_leaves(inputs))
        with torch.no_grad(), live:
            call(model, inputs)
        return Reading(float(live.peak))


def _allocated(model: nn.Module, inputs: Inputs) -> int:
    """Return the peak of CUDA's allocator in a forward pass, above what was allocated, and with the inputs."""
    device = device_of(model)
    with torch.no_grad():
        call(model, inputs)  # libraries allocate workspaces once, in the first pass
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call(model, inputs)
        torch.cuda.synchronize(device)
    storages = [tensor.untyped_storage() for tensor in tree_leaves(inputs) if isinstance(tensor, Tensor)]
    held = {storage._cdata: storage.nbytes() for storage in storages}
    return torch.cuda.max_memory_allocated(device) - before + sum(held.values())


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that tracks the live storages after every operation."""

    def __init__(self, without: list[Tensor], inputs: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The reference keeps other storages from reusing the address of a buffer that the model replaces.
        self._held = [tensor.untyped_storage() for tensor in without]
        self._without = {storage._cdata for storage in self._held}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self._see(inputs)

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._see(tree_leaves(output))
        return output

    def _see(self, tensors: list[Any]) -> None:
        self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}  # type: ignore[no-untyped-call]
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._without:
                    self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
