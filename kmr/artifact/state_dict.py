"""State dicts as people keep them: safetensors, checkpoints of `torch.save`, and files in shards, read without code.

A training script nests the state dict in a checkpoint, and a wrapper puts a prefix before every name. Both are taken
off, and the notes say so.
"""

import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.core.copying import copied

NESTED = ("state_dict", "model_state_dict", "model", "weights", "ema")
"""The entries of a checkpoint that may hold the state dict, the first one first."""
WRAPPERS = ("module", "_orig_mod", "model")
"""The names under which DataParallel, `torch.compile` and Lightning modules hold the model."""
_PATTERNS = ("*.safetensors.index.json", "*.bin.index.json", "*.safetensors", "*.bin", "*.pt", "*.pth")
_SHOWN = 4


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Copy the weights of a file into a model; return notes on what was taken off, left out or rounded.

    Args:
        model: receives the weights; a file that does not fit leaves it as it was.
        path: a safetensors file, a checkpoint of `torch.save`, the index of a file in shards, or the folder of one.

    Raises:
        KMRError: the file is missing, damaged or holds more than tensors, or its names, shapes or types do not fit.
    """
    path = Path(path).expanduser()
    own = model.state_dict(keep_vars=True)
    found, read_notes = _read(path)
    tensors, notes = _without_wrappers(path, found, own)
    if faults := _wrong_values(tensors, own):
        raise _misfit(path, faults)
    missing, unknown = _missing(tensors, own), [name for name in tensors if name not in own]
    if missing and unknown:  # hooks of torch translate names of old versions: try it on a copy
        result = copied(model).load_state_dict(tensors, strict=False)
        missing, unknown = [name for name in missing if name in result.missing_keys], result.unexpected_keys
    if missing or unknown:
        faults = [f"it lacks {_some(missing)}"] if missing else []
        raise _misfit(path, faults + ([f"the model has no {_some(unknown)}"] if unknown else []))
    lossy = [name for name, value in tensors.items() if name in own and _rounds(value.dtype, own[name].dtype)]
    if lossy:
        notes += (f"rounded {_some(lossy)} from {tensors[lossy[0]].dtype} to the model's {own[lossy[0]].dtype}",)
    model.load_state_dict(tensors, strict=False)  # a tied tensor may stand in the file once
    return read_notes + notes


def _read(path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a file, or of all shards of one, on the CPU, and notes."""
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise KMRError(
            f"no weights at {path}: name a .safetensors, .pt or .pth file, or the index of a file in shards "
            "(KMR_DATA names the data folder)"
        )
    if path.suffix == ".json":
        return _read_shards(path)
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # a safetensors file begins with the length of its JSON header, in 8 bytes
        return _read_safetensors(path), ()
    if start[:2] != b"PK" and start[:1] != b"\x80":
        raise KMRError(f"{path} is not a safetensors file nor one of torch.save: save the weights again")
    return _nested(path, _read_checkpoint(path))


def _in_folder(folder: Path) -> Path:
    for pattern in _PATTERNS:
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = _some(file.name for file in found)
            raise KMRError(f"the folder {folder} holds {len(found)} {pattern[1:]} files ({names}): name one file")
    raise KMRError(f"no weights in the folder {folder}: name a .safetensors, .pt or .pth file")


def _read_shards(index: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    try:
        places = {
            str(name): Path(file) for name, file in json.loads(index.read_text("utf-8-sig"))["weight_map"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KMRError(f"{index} is not the index of a file in shards ({error}): it needs a weight_map") from error
    tensors: dict[str, Tensor] = {}
    files = sorted(set(places.values()))
    for file in files:
        if file.name != str(file):
            raise KMRError(f"{index} names the shard {file}: a shard must lie beside its index")
        if not (index.parent / file).is_file():
            raise KMRError(f"{index.parent / file} is missing: {index.name} names it as a shard; copy it there")
        shard, _ = _read(index.parent / file)
        wanted = [name for name, place in places.items() if place == file]
        if absent := [name for name in wanted if name not in shard]:
            raise KMRError(f"the shard {index.parent / file} lacks {_some(absent)}: copy it again")
        tensors.update({name: shard[name] for name in wanted})
    return tensors, (f"read {len(tensors)} tensors from {len(files)} shards",)


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise KMRError(f"{path} is not a safetensors file, or it is damaged: {error}") from error
    return tensors


def _read_checkpoint(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it holds {foreign[1]}" if foreign else " ".join(str(error).split())[:160]
        raise KMRError(
            f"{path} is damaged, or cannot be read without running code from it ({why}): save it with "
            "torch.save(model.state_dict(), …) or as .safetensors"
        ) from error


def _nested(path: Path, found: object, above: str = "") -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the state dict in a checkpoint, however deep it is nested, and notes."""
    if not isinstance(found, Mapping):
        raise KMRError(f"{path} holds a {type(found).__name__}, not a state dict: save model.state_dict()")
    known = [key for key in NESTED if _holds_tensors(found.get(key))]
    if known:
        others = f" (not {', '.join(known[1:])})" if known[1:] else ""
        tensors, notes = _nested(path, found[known[0]], f"{above}{known[0]}.")
        return tensors, (f"read {above}{known[0]}{others}", *notes)
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) < len(found):
        raise KMRError(
            f"{path} holds a dict of {_some(map(str, found))}, not a state dict: save the model's state_dict(), or "
            f"under {NESTED[0]}"
        )
    return tensors, ()


def _holds_tensors(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(inner, Tensor) or (key in NESTED and _holds_tensors(inner)) for key, inner in value.items())


def _without_wrappers(
    path: Path, given: Mapping[str, Tensor], own: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the tensors under the prefix with most of the model's names, without it; the others are left out."""
    prefixes = [""]
    for prefix in prefixes:  # grows while it is read
        longer = [f"{prefix}{wrapper}." for wrapper in WRAPPERS]
        prefixes += [each for each in longer if any(name.startswith(each) for name in given)]
    hits = {each: sum(name[len(each) :] in own for name in given if name.startswith(each)) for each in prefixes}
    best = max(hits.values())
    prefix, *rivals = [each for each in prefixes if hits[each] == best]
    if not prefix or not best:
        return given, ()
    if rivals:
        raise KMRError(f"{path} holds the model under {prefix} and under {rivals[0]}: save the one you mean alone")
    inside = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    notes = (f"took the prefix {prefix} off {len(inside)} names",)
    left_out = [name for name in given if not name.startswith(prefix)]
    return inside, (*notes, f"left out {_some(left_out)}, outside {prefix}") if left_out else notes


def _missing(given: Mapping[str, Tensor], own: Mapping[str, Any]) -> list[str]:
    """Return the model's names without a tensor; a tied one may stand under any of its names."""
    filled = {_place(own[name]) for name in given if name in own}
    absent = [name for name, value in own.items() if name not in given and _place(value) not in filled]
    old = all(name.endswith("num_batches_tracked") for name in absent)  # files of old versions have none
    return [] if old else absent


def _place(value: Any) -> object:
    """Return the same for two tensors on the same memory: tied ones are stored once."""
    if isinstance(value, Tensor) and value.numel() and value.device.type != "meta":
        return value.data_ptr(), value.shape, value.stride(), value.dtype
    return id(value)


def _wrong_values(given: Mapping[str, Tensor], own: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with shapes, types, ranges or tied values."""
    faults: list[str] = []
    first: dict[object, str] = {}
    for name in (name for name in given if isinstance(own.get(name), Tensor)):
        value, ours = given[name], own[name]
        twin = first.setdefault(_place(ours), name)
        if value.shape != ours.shape:
            faults.append(f"{name} has shape {tuple(value.shape)}, the model's {tuple(ours.shape)}")
        elif value.layout != torch.strided or value.is_meta:
            faults.append(f"{name} is {value.layout} on {value.device}: save its plain values")
        elif _kind(value) != _kind(ours):
            faults.append(f"{name} is {value.dtype}, the model's {ours.dtype}; quantized weights must be decoded first")
        elif value.dtype != ours.dtype and not _representable(value, value.to(ours.dtype)):
            faults.append(f"{name} has values beyond the model's {ours.dtype}")
        elif twin != name and not torch.equal(given[twin].to(ours.dtype), value.to(ours.dtype)):
            faults.append(f"{twin}, {name} are one tensor in it, but differ in the file")
    return faults


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Tell whether a tensor holds real numbers, complex ones, or real ones of 8 bits, which have a scale elsewhere."""
    real = tensor.is_floating_point()
    return real, tensor.is_complex(), real and tensor.element_size() == 1


def _representable(value: Tensor, stored: Tensor) -> bool:
    if value.is_floating_point() or value.is_complex():
        return torch.equal(value.isfinite(), stored.isfinite())
    return torch.equal(value, stored.to(value.dtype))


def _rounds(given: torch.dtype, own: torch.dtype) -> bool:
    return own.is_floating_point and torch.promote_types(given, own) != own


def _misfit(path: Path, faults: list[str]) -> KMRError:
    return KMRError(f"{path} does not fit the model: {'; '.join(faults[:_SHOWN])}")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
