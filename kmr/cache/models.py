"""A model as the content of a cache entry, and back: the same to the last bit, now and in all that is done to it later.

The architecture is `kmr.artifact.structure`'s difference from the base, the weights, grids and masks are
`kmr.artifact.packing`'s. Beside those are kept which modules are in training mode, in which order parameters were
registered and how tensors lie in
memory: a norm over all gradients or a matrix product rounds differently where these differ, and fine-tuning a recalled
model would drift from fine-tuning the one it was made from. Whether a model comes back is tried when it is stored.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kmr.artifact import packing, structure
from kmr.artifact.memory_layout import apply_layout, describe_layout, tensors_of
from kmr.artifact.rebuilding import rebuild
from kmr.artifact.slots import slots
from kmr.cache.entry import Content
from kmr.cache.keys import exact_json
from kmr.core import KMRError


class NotStorable(KMRError):
    """A model would not come back from a cache as it is, so it is not put there."""


def to_content(base: nn.Module, model: nn.Module) -> Content:
    """Turn a model into tensors and JSON; neither it nor its base is changed.

    Raises:
        NotStorable: the model would not come back the same: its architecture cannot be described, or it holds state
            that is not visible (latent weights that are not settled).
    """
    try:
        description = structure.describe(base, model)
        rebuilt = rebuild(base, description)
        packed = packing.pack(model, also=_unsaved_buffers(model, rebuilt))
        metadata: dict[str, Any] = {"structure": description, "packing": packed.manifest}
        # What is tried is what will be read: metadata that has been JSON.
        metadata = json.loads(exact_json(metadata))
        twin = _rebuild(base, packed.tensors, metadata)
        metadata["training"] = [path for path, module in model.named_modules() if module.training]
        metadata |= describe_layout(model, twin)
        _restore(twin, metadata)
    except (KMRError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise NotStorable(f"the model cannot be cached: {error}") from error
    if difference := _difference(model, twin):
        raise NotStorable(f"the model cannot be cached: {difference} would not come back as it is")
    return packed.tensors, metadata


def from_content(base: nn.Module, content: Content) -> nn.Module:
    """Return the model that `to_content` turned into tensors and JSON, on the device of the base, which is not changed.

    Raises:
        KMRError: the content is not that of a model with this base.
    """
    tensors, metadata = content
    try:
        model = _rebuild(base, tensors, metadata)
        _restore(model, metadata)
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise KMRError(f"a cache entry holds no model of this base: {type(error).__name__}: {error}") from error
    return model


def _rebuild(base: nn.Module, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> nn.Module:
    model = rebuild(base, metadata["structure"])
    # Rebuilt tensors start on the CPU.
    devices = {tensor.device for tensor in (*base.parameters(), *base.buffers())}
    if len(devices) == 1:
        model = model.to(devices.pop())
    return packing.unpack(packing.Packed(dict(tensors), metadata["packing"]), model)


def _restore(model: nn.Module, metadata: Mapping[str, Any]) -> None:
    training = set(metadata["training"])
    for path, module in model.named_modules():
        module.training = path in training
    apply_layout(model, metadata)


def _unsaved_buffers(model: nn.Module, rebuilt: nn.Module) -> list[str]:
    """Name the buffers outside the model's state that the rebuilt architecture does not have as they are."""
    theirs = {slot.name: slot.tensor for slot in slots(rebuilt) if not slot.persistent}
    return [
        slot.name
        for slot in slots(model)
        if not slot.persistent and not _same_bits(slot.tensor.cpu(), theirs[slot.name].cpu())
    ]


def _difference(model: nn.Module, twin: nn.Module) -> str | None:
    """Name the first thing in which two models differ; None where going on from either is the same."""
    if [(p, m.training) for p, m in model.named_modules()] != [(p, m.training) for p, m in twin.named_modules()]:
        return "the list of its modules and their modes"
    if [name for name, _ in model.named_parameters()] != [name for name, _ in twin.named_parameters()]:
        return "the order of its parameters"
    ours, theirs = tensors_of(model), tensors_of(twin)
    if ours.keys() != theirs.keys():
        return f"the tensor {min(ours.keys() ^ theirs.keys())}"
    if _ties(ours) != _ties(theirs):
        return "which of its tensors are the same one"
    for name, tensor in ours.items():
        other = theirs[name]
        alike = tensor.requires_grad == other.requires_grad and tensor.device == other.device
        if not alike or tensor.stride() != other.stride() or not _same_bits(tensor, other):
            return f"the tensor {name}"
    return None


def _ties(tensors: dict[str, Tensor]) -> list[str]:
    first: dict[int, str] = {}
    return sorted(f"{name} {first.setdefault(id(tensor), name)}" for name, tensor in tensors.items())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    # As bytes: NaN equals itself, and 0 is not −0.
    return torch.equal(*(t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))
