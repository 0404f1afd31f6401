"""Exact storage of a compressed model: one safetensors file with every weight in the fewest bytes.

The file stores, and its size therefore counts:

- for each weight of a `kmr.representation.weights.WeightLayer`, its b-bit codes or raw values, the scales and zero
  points of its grid and, if it is sparse, the index of its kept entries (`kmr.artifact.weight_encoding`);
- every other parameter and buffer of the model's state, unchanged; each tied tensor once;
- the header with the names, the shapes and the manifest that decodes the rest.

The round trip is exact to the last bit and restores grids and masks, so that training can continue.
"""

import copy
import json
import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from kmr.artifact.slots import Slot, slots
from kmr.artifact.weight_encoding import decode_weight, encode_weight
from kmr.core import KMRError
from kmr.representation.weights import (
    WEIGHT_LAYERS,
    Codebook,
    Grid,
    Mask,
    WeightState,
    read_weight,
    strip_all,
    write_weight,
)

FORMAT = 1

_DTYPES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The dtypes of a file and their names in it, in the file's order of tensors."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A model's stored tensors, and the JSON manifest that decodes them."""

    tensors: dict[str, Tensor]
    manifest: dict[str, Any]


def pack(model: nn.Module, *, also: Collection[str] = ()) -> Packed:
    """Pack a model's state; the model is not changed.

    Args:
        model: any module; its weights may have a `Grid` or `Codebook` and a `Mask` of `kmr.representation.weights`.
        also: names of non-persistent buffers to store as well.

    Raises:
        KMRError: a tensor or a parametrization is of a kind that cannot be stored exactly.
    """
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Any] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for slot in slots(model):
        if not slot.persistent and slot.name not in also:
            continue
        if slot.identity in first:
            tied[slot.name] = first[slot.identity]
            continue
        first[slot.identity] = slot.name
        encoded = _encode(slot)
        if encoded is None:
            tensors[slot.name] = _plain(slot)
        else:
            tensors[slot.name], weights[slot.name] = encoded
    return Packed(tensors, {"format": FORMAT, "weights": weights, "tied": tied})


def unpack(packed: Packed, model: nn.Module) -> nn.Module:
    """Restore the packed weights, grids, masks and buffers in a model of the same architecture, in place; return it.

    Raises:
        KMRError: the model's tensors have other names, shapes, dtypes or ties.
    """
    strip_all(model)
    check_fit(packed, model)
    found = {slot.name: slot for slot in slots(model)}
    tied = packed.manifest["tied"]
    weights = packed.manifest["weights"]
    for name, stored in packed.tensors.items():
        if name in weights:
            state = decode_weight(stored, weights[name])
            _write(found[name], state)
        else:
            _copy(found[name], stored)
    for name, source in tied.items():
        # A module used in two places needs its weight set only once.
        if found[name].owner is not found[source].owner:
            _copy(found[name], found[source].tensor)
    return model


def check_fit(packed: Packed, model: nn.Module) -> None:
    """Raise `KMRError` unless the model's tensors have the packed names, shapes, dtypes and ties."""
    found = {slot.name: slot for slot in slots(model)}
    tied = packed.manifest["tied"]
    stored = {*packed.tensors, *tied}
    wanted = {slot.name for slot in found.values() if slot.persistent}
    if missing := sorted(wanted - stored) + sorted(stored - found.keys()):
        raise KMRError(f"the model and the stored weights do not match: one of them has no {', '.join(missing[:3])}")
    owners: dict[int, str] = {}
    for name in sorted(stored):
        source = tied.get(name, name)
        entry = packed.manifest["weights"].get(source)
        tensor, kept = found[name].tensor, packed.tensors[source]
        shape = tuple(kept.shape) if entry is None else tuple(entry["shape"])
        dtype = str(kept.dtype).removeprefix("torch.") if entry is None else entry.get("dtype", "float32")
        if shape != tuple(tensor.shape) or f"torch.{dtype}" != str(tensor.dtype):
            raise KMRError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype} in the model but {shape} {dtype} in the file"
            )
        if owners.setdefault(found[name].identity, source) != source:
            raise KMRError(f"{name} and {owners[found[name].identity]} are tied in the model but not in the file")


def file_bytes(packed: Packed) -> int:
    """Return the exact size in bytes of the file that `write` writes: header, manifest and data."""
    order = {dtype: place for place, dtype in enumerate(_DTYPES)}
    header: dict[str, Any] = {"__metadata__": {"kmr": _manifest_text(packed)}}
    end = 0
    for name, tensor in sorted(packed.tensors.items(), key=lambda item: (order[item[1].dtype], item[0].encode())):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())
    return 8 + 8 * math.ceil(length / 8) + end


def write(packed: Packed, path: str | os.PathLike[str]) -> None:
    """Write a packed model to one safetensors file.

    Raises:
        KMRError: safetensors is not installed.
        OSError: the file system's error.
    """
    library = _safetensors()
    try:
        library.torch.save_file(packed.tensors, path, {"kmr": _manifest_text(packed)})
    except library.SafetensorError as error:
        # The library reports the system's error only as text.
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), os.fspath(path)) from error


def read(path: str | os.PathLike[str]) -> Packed:
    """Read a file that `write` wrote.

    Raises:
        KMRError: the file is missing, damaged or not a packed model.
    """
    library = _safetensors()
    if not os.path.isfile(path):
        raise KMRError(f"no file {os.fspath(path)}")
    try:
        with library.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("kmr")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except library.SafetensorError as error:
        raise KMRError(f"{os.fspath(path)} is damaged or not a safetensors file ({error})") from None
    if text is None:
        raise KMRError(f"{os.fspath(path)} is a safetensors file without packed weights: read it with safetensors")
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise KMRError(f"{os.fspath(path)} has a damaged manifest ({error})") from None
    if manifest.get("format") != FORMAT:
        raise KMRError(f"{os.fspath(path)} has packing format {manifest.get('format')}; this version reads {FORMAT}")
    return Packed(tensors, manifest)


def _encode(slot: Slot) -> tuple[Tensor, dict[str, Any]] | None:
    if not (isinstance(slot.owner, WEIGHT_LAYERS) and slot.attribute == "weight" and slot.parameter):
        return None
    state = _to_cpu(read_weight(slot.owner))
    latent = state.weight
    if slot.parametrized:
        _check_parametrizations(slot)
        if state.grid is not None or state.keep is not None:
            latent = _held(slot).original.detach()
    _check_storable(slot.name, state.weight)
    held = state.grid is not None or state.keep is not None
    if not state.weight.is_floating_point() or state.weight.element_size() == 1:
        if held:
            raise KMRError(f"{slot.name} has a grid or mask over {state.weight.dtype}: only 16- to 64-bit floats can")
        return None
    return encode_weight(state, latent.cpu())


def _held(slot: Slot) -> Any:
    return cast(Any, slot.owner).parametrizations[slot.attribute]


def _check_parametrizations(slot: Slot) -> None:
    kinds = [type(part) for part in _held(slot)]
    ours = any(issubclass(kind, Grid | Codebook | Mask) or kind.__module__.partition(".")[0] == "kmr" for kind in kinds)
    if ours and kinds not in ([Grid], [Codebook], [Mask], [Grid, Mask], [Codebook, Mask]):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise KMRError(
            f"{slot.name} has the parametrizations {names}: a weight can be stored with a Grid or Codebook, then a Mask"
        )


def _to_cpu(state: WeightState) -> WeightState:
    grid = state.grid
    if grid is not None and any(t.device.type != "cpu" for t in grid.state_dict().values()):
        grid = copy.deepcopy(grid).cpu()
    return WeightState(state.weight.cpu(), grid, None if state.keep is None else state.keep.cpu())


def _plain(slot: Slot) -> Tensor:
    tensor = slot.tensor.detach().cpu()
    _check_storable(slot.name, tensor)
    # A copy, so that no storage is in the file twice and packed tensors do not change with the model.
    return tensor.contiguous().clone()


def _check_storable(name: str, tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        raise KMRError(
            f"cannot store {name}, a {type(tensor).__name__} of layout {tensor.layout}: only plain tensors are"
        )
    if tensor.dtype not in _DTYPES:
        raise KMRError(f"{name} has type {tensor.dtype}, which safetensors cannot store: convert it")


def _write(slot: Slot, state: WeightState) -> None:
    if state.grid is None and state.keep is None:
        _copy(slot, state.weight)
        return
    device = slot.tensor.device
    weight = state.weight.to(device)
    grid = None if state.grid is None else state.grid.to(device)
    write_weight(slot.owner, WeightState(weight, grid, None if state.keep is None else state.keep.to(device)))
    _held(slot).original.data.copy_(weight)


def _copy(slot: Slot, value: Tensor) -> None:
    with torch.no_grad():
        getattr(slot.owner, slot.attribute).copy_(value)


def _manifest_text(packed: Packed) -> str:
    return json.dumps(packed.manifest, separators=(",", ":"), sort_keys=True)


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise KMRError(f"packed weights need safetensors ({error}): pip install safetensors numpy") from None
    return safetensors
