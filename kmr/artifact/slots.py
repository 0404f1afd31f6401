"""Tensors that describe a model: its parameters and buffers, with each compressed weight as one effective weight."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.core import KMRError
from kmr.representation.weights import WEIGHT_LAYERS


@dataclass(frozen=True, eq=False)
class Slot:
    """One named tensor of a model.

    Args:
        name: its name in the model without parametrizations.
        owner: the module that has it.
        attribute: its name in the owner.
        parameter: whether it is a parameter, not a buffer.
        persistent: whether the model's state includes it; a buffer can be non-persistent.
    """

    name: str
    owner: nn.Module
    attribute: str
    parameter: bool = True
    persistent: bool = True

    @property
    def parametrized(self) -> bool:
        """Tell whether this is a layer's weight with parametrizations."""
        return parametrize.is_parametrized(self.owner, self.attribute)

    @property
    def tensor(self) -> Tensor:
        """The tensor that the model computes with, detached."""
        return cast(Tensor, getattr(self.owner, self.attribute)).detach()

    @property
    def identity(self) -> int:
        """A number that is equal for two slots of one tensor."""
        if self.parametrized:
            return id(self.owner)
        return id(getattr(self.owner, self.attribute))


def slots(model: nn.Module) -> list[Slot]:
    """List a model's tensors by name; a tensor that has several names is listed under each.

    A parametrized weight of a weight layer is listed once, as the layer's effective `weight`, without what makes it.

    Raises:
        KMRError: the model keeps state elsewhere (packed or quantized modules, extra state), which would be lost.
    """
    _check_state(model)
    return list(_walk(model))


def unique(found: list[Slot]) -> Iterator[Slot]:
    """Yield each tensor once, under its first name."""
    seen: set[int] = set()
    for slot in found:
        if slot.identity not in seen:
            seen.add(slot.identity)
            yield slot


def _walk(model: nn.Module) -> Iterator[Slot]:
    hidden: str | None = None
    for path, module in model.named_modules(remove_duplicate=False):
        if hidden is not None and (path == hidden or path.startswith(hidden + ".")):
            continue
        prefix = f"{path}." if path else ""
        if isinstance(module, WEIGHT_LAYERS) and parametrize.is_parametrized(module, "weight"):
            hidden = f"{prefix}parametrizations.weight"
            yield Slot(f"{prefix}weight", module, "weight")
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield Slot(prefix + name, module, name)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                persistent = name not in module._non_persistent_buffers_set
                yield Slot(prefix + name, module, name, parameter=False, persistent=persistent)


def _check_state(model: nn.Module) -> None:
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for name, value in model.state_dict(keep_vars=True).items():
        if value is not None and id(value) not in known:
            raise KMRError(
                f"cannot count or store {name} of the model's state, a {type(value).__name__}: keep it in parameters "
                "and buffers, not in torch.ao modules or extra state"
            )


def differing_buffers(model: nn.Module, rebuilt: nn.Module) -> list[str]:
    """Return the names of non-persistent buffers that differ from those of the same architecture, rebuilt."""
    theirs = {slot.name: slot.tensor.cpu() for slot in slots(rebuilt) if not slot.persistent}
    ours = [slot for slot in slots(model) if not slot.persistent]
    return [slot.name for slot in ours if not torch.equal(slot.tensor.cpu(), theirs[slot.name])]
