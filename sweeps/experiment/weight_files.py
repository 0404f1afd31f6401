"""Files of trained weights as people have them: safetensors, sharded safetensors, and state dicts of `torch.save`."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeps.errors import SweepError

NESTED = ("state_dict", "model_state_dict", "model", "weights")
"""Keys under which training scripts keep the weights in a checkpoint."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes of `DataParallel`, `torch.compile` and Lightning."""


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a file's weights into a model, in place; what was taken off the names is printed.

    Raises:
        SweepError: the file is missing or of another kind, or does not fit; the message names keys and shapes.
    """
    if not path.exists():
        raise SweepError(
            f"no weights at {path}: set weights to a .safetensors, .pt or .pth file (KMR_DATA names the data folder)"
        )
    if path.suffix == ".safetensors" or path.is_dir() or path.name.endswith(".index.json"):
        found = _safetensors(path)
    else:
        found = _checkpoint(path)
    wanted = dict(model.state_dict())
    found = _without_prefixes(found, wanted, path)
    # Tied tensors are stored once.
    owners: dict[int, list[str]] = {}
    for name, tensor in wanted.items():
        owners.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), []).append(name)
    for names in owners.values():
        stored = next((name for name in names if name in found), None)
        others = [name for name in names if name in found]
        if stored is not None and any(not torch.equal(found[stored], found[name]) for name in others):
            raise SweepError(
                f"{path} does not fit the model: {_few(others)} are one tensor in it, but differ in the file"
            )
        if len(names) > 1 and stored is not None:
            found.update({name: found[stored] for name in names if name not in found})
    missing, unknown = [name for name in wanted if name not in found], [name for name in found if name not in wanted]
    if missing or unknown:
        parts = [f"it lacks {_few(missing)}"] if missing else []
        parts += [f"the model has no {_few(unknown)}"] if unknown else []
        raise SweepError(f"{path} does not fit the model: {'; '.join(parts)}")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise SweepError(
                f"{path} does not fit the model: {name} has shape {tuple(found[name].shape)}, the model's "
                f"{tuple(tensor.shape)}"
            )
        if found[name].is_floating_point() != tensor.is_floating_point():
            raise SweepError(
                f"{path} does not fit the model: {name} is {found[name].dtype}, the model's {tensor.dtype}; quantized "
                "weights must be decoded first"
            )
    model.load_state_dict(found)
    return model


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [path]
    if path.is_dir():
        indices = sorted(path.glob("*.safetensors.index.json"))
        files = [indices[0]] if indices else sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise SweepError(
                f"the folder {path} holds {len(files)} .safetensors files and no .safetensors.index.json: name one file"
            )
    if files[0].name.endswith(".index.json"):
        try:
            parts = set(json.loads(files[0].read_text("utf-8-sig"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SweepError(f"{files[0]} is no index of safetensors: it has no weight_map") from error
        files = [files[0].parent / Path(str(part)).name for part in sorted(parts)]
    found: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise SweepError(f"{file} is missing: {path} names it as a part of the weights")
        try:
            found |= load_file(str(file))
        except (SafetensorError, OSError) as error:
            raise SweepError(f"{file} is not a safetensors file: {error}") from error
    return found


def _checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running code from the file."""
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:160]
        raise SweepError(
            f"{path} is no state dict that can be read without running code from it ({why}): save it with "
            "torch.save(model.state_dict(), …) or as .safetensors"
        ) from error
    for key in NESTED:
        inner = loaded.get(key) if isinstance(loaded, Mapping) else None
        if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
            print(f"weights: read {key} of {path}", flush=True)
            return dict(inner)
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        kind = f"a dict of {_few(list(map(str, loaded)))}" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise SweepError(f"{path} holds {kind}, not a state dict: save the model's state_dict(), or under {NESTED[0]}")
    return dict(loaded)


def _without_prefixes(found: dict[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Take wrappers' prefixes off all names until they fit the model."""
    taken = ""
    while found and not any(name in wanted for name in found):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None)
        if prefix is None:
            break
        found, taken = {name.removeprefix(prefix): value for name, value in found.items()}, taken + prefix
    if taken:
        print(f"weights: took the prefix {taken} off the names in {path}", flush=True)
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
