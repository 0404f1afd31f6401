"""Models as the content of cache entries, exact to the last bit even in later training.

`kmr.artifact.structure` describes the architecture by its difference from the base; `kmr.artifact.packing` stores the
weights, grids and masks. An entry also stores which modules are in training mode, the order of the parameters and the
memory layout of the tensors. Norms over all gradients and matrix products round differently where these differ, so
fine-tuning a recalled model would drift from fine-tuning the original. The round trip is tested before a model is
stored.
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
    """The error of a model that a cache could not restore exactly and therefore does not store."""


def to_content(base: nn.Module, model: nn.Module) -> Content:
    """Convert a model to tensors and JSON; neither the model nor its base is changed.

    Raises:
        NotStorable: the model cannot be restored exactly: its architecture cannot be described, or it has hidden state
            (latent weights that are not settled).
    """
    try:
        description = structure.describe(base, model)
        rebuilt = rebuild(base, description)
        packed = packing.pack(model, also=_unsaved_buffers(model, rebuilt))
        metadata: dict[str, Any] = {"structure": description, "packing": packed.manifest}
        # The test uses what will be read back: metadata that has been JSON.
        metadata = json.loads(exact_json(metadata))
        twin = _rebuild(base, packed.tensors, metadata)
        metadata["training"] = [path for path, module in model.named_modules() if module.training]
        metadata |= describe_layout(model, twin)
        _restore(twin, metadata)
    except (KMRError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise NotStorable(f"the model cannot be cached: {error}") from error
    if difference := _difference(model, twin):
        raise NotStorable(f"the model cannot be cached: {difference} would change")
    return packed.tensors, metadata


def from_content(base: nn.Module, content: Content) -> nn.Module:
    """Rebuild the model that `to_content` converted, on the device of the base, which is not changed.

    Raises:
        KMRError: the content does not describe a model of this base.
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
    """Return the names of non-persistent buffers that differ from those of the rebuilt architecture."""
    theirs = {slot.name: slot.tensor for slot in slots(rebuilt) if not slot.persistent}
    return [
        slot.name
        for slot in slots(model)
        if not slot.persistent and not _same_bits(slot.tensor.cpu(), theirs[slot.name].cpu())
    ]


def _difference(model: nn.Module, twin: nn.Module) -> str | None:
    """Return the name of the first difference between two models; None if they are interchangeable."""
    if [(p, m.training) for p, m in model.named_modules()] != [(p, m.training) for p, m in twin.named_modules()]:
        return "its list of modules and their modes"
    if [name for name, _ in model.named_parameters()] != [name for name, _ in twin.named_parameters()]:
        return "the order of its parameters"
    ours, theirs = tensors_of(model), tensors_of(twin)
    if ours.keys() != theirs.keys():
        return f"the tensor {min(ours.keys() ^ theirs.keys())}"
    if _ties(ours) != _ties(theirs):
        return "the ties between its tensors"
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
    # Comparing bytes makes NaN equal to itself and 0 different from −0.
    return torch.equal(*(t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))
