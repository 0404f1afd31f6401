"""Devices: where a model is, and the one that a name such as `auto` or `cuda:1` chooses."""

from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import nn

from kmr.core.errors import KMRError

AUTO = "auto"
"""The name that chooses the accelerator that torch can use here, or else the CPU."""


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU if it has neither."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device that a name chooses: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; a device stays as it is.

    Raises:
        KMRError: torch does not know the device, or cannot use it here; the message lists the choices.
    """
    if isinstance(name, torch.device):
        return name
    here = accelerators()
    if name == AUTO:
        return torch.device(here[0] if here else "cpu")
    kinds = [each.partition(":")[0] for each in here[:1]]
    if name in ("cpu", *kinds, *here):
        return torch.device(name)
    raise KMRError(f"device is {name!r}, which torch cannot use here: choose {_listed([AUTO, 'cpu', *here])}")


def accelerators() -> list[str]:
    """Return the names of the accelerators that torch can use here, such as `cuda:0`."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return []
    return [kind.type] if kind.type == "mps" else [f"{kind.type}:{n}" for n in range(torch.accelerator.device_count())]


def has_double(device: torch.device) -> bool:
    """Tell whether a device computes in double precision; Apple's does not."""
    return device.type != "mps"


def synchronize(device: torch.device) -> None:
    """Wait until a device has done its work; the CPU has none left when a call returns."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return a context in which operations on a device run in this type, or in that of their tensors for None."""
    if dtype is None and not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
