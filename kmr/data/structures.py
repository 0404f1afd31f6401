"""Nested inputs and targets: tensors in tuples, lists and mappings, batch first."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from kmr.core import KMRError

Inputs: TypeAlias = Any
"""A tensor, a tuple (positional arguments) or a dict (keyword arguments) of tensors, or what a `collate_fn` returns."""


def map_tensors(function: Any, inputs: Inputs) -> Inputs:
    """Apply a function to every tensor of nested tuples, lists and mappings."""
    match inputs:
        case Tensor() | PackedSequence():
            return function(inputs) if isinstance(inputs, Tensor) else inputs
        case Mapping():
            return {key: map_tensors(function, value) for key, value in inputs.items()}
        case tuple() | list():
            return tuple(map_tensors(function, value) for value in inputs)
        case _:
            return inputs


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """Return nested inputs on a device; an object with its own `to(device)` moves itself."""
    match inputs:
        case Mapping():
            return {key: moved(value, device) for key, value in inputs.items()}
        case PackedSequence():
            return inputs.to(device)  # type: ignore[arg-type]
        case tuple():
            return tuple(moved(value, device) for value in inputs)
        case list():
            return [moved(value, device) for value in inputs]
        case _:
            return inputs.to(device) if callable(getattr(inputs, "to", None)) else inputs


def as_tensors(part: Any) -> Any:
    """Convert nested arrays, data frames and lists of numbers to tensors; integers become int64.

    Lists of strings, of dicts and of tensors of several shapes stay as they are. Raises `KMRError` for what cannot be
    converted.
    """
    match part:
        case Tensor():
            found = part
        case Mapping():
            return {key: as_tensors(value) for key, value in part.items()}
        case tuple() if any(_is_part(value) for value in part):
            return tuple(as_tensors(value) for value in part)
        case _ if _is_text(part):
            return [str(text) for text in part]
        case list() if _is_ragged(part):
            return part
        case _:
            try:
                if isinstance(part, list) and part and isinstance(part[0], Tensor):
                    return torch.stack(part)
                found = torch.as_tensor(part.to_numpy(copy=True) if hasattr(part, "to_numpy") else part)
            except (TypeError, ValueError, RuntimeError) as error:
                raise KMRError(f"a {type(part).__name__} is not an array of numbers: {error}") from error
    return found


def as_labels(targets: Any) -> Any:
    """Return nested targets with whole numbers of any size as int64; Booleans and floating point stay."""
    match targets:
        case Tensor():
            return targets.long() if targets.dtype in _WHOLE else targets
        case Mapping():
            return {key: as_labels(value) for key, value in targets.items()}
        case tuple():
            return _like(targets, [as_labels(value) for value in targets])
        case _:
            return targets


_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32)


def length_of(part: Any) -> int:
    """Return the number of samples of nested tensors or lists of samples.

    Raises:
        KMRError: the parts differ in length.
    """
    match part:
        case Mapping():
            lengths = {str(key): length_of(value) for key, value in part.items()}
        case tuple():
            lengths = {str(place): length_of(value) for place, value in enumerate(part)}
        case _:
            if isinstance(part, Tensor) and part.dim() == 0:
                raise KMRError("a single number is not a batch: give every part a first dimension of samples")
            return len(part)
    if len(set(lengths.values())) != 1:
        raise KMRError(f"parts of the samples differ in length: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
    return next(iter(lengths.values()))


def rows_of(part: Any, rows: Any) -> Any:
    """Return some samples of nested tensors or lists of samples; `rows` is a slice or a tensor of indices."""
    match part:
        case Mapping():
            return {key: rows_of(value, rows) for key, value in part.items()}
        case tuple():
            return _like(part, [rows_of(value, rows) for value in part])
        case list():
            return part[rows] if isinstance(rows, slice) else [part[int(row)] for row in rows]
        case _:
            return part[rows]


def joined(parts: Sequence[Any]) -> Any:
    """Concatenate nested batches along their first dimension.

    Raises:
        KMRError: the batches differ in structure or in their other dimensions.
    """
    first = parts[0]
    try:
        match first:
            case Tensor():
                return torch.cat(list(parts))
            case Mapping():
                return {key: joined([part[key] for part in parts]) for key in first}
            case tuple():
                return _like(first, [joined(list(column)) for column in zip(*parts, strict=True)])
            case list():
                return [entry for part in parts for entry in part]
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise KMRError(f"batches cannot be joined: {' '.join(str(error).split())}") from error
    raise KMRError(f"batches of {type(first).__name__} cannot be joined")


def arguments(inputs: Any) -> Any:
    """Return inputs with lists of tensors, which torch's default collate function makes of tuples, as tuples."""
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], Tensor | Mapping | list):
        return tuple(arguments(value) for value in inputs)
    return inputs


def _like(part: Any, values: list[Any]) -> Any:
    """Return values as a tuple of the same kind, named or not."""
    return type(part)(*values) if hasattr(part, "_fields") else tuple(values)


def _is_part(value: Any) -> bool:
    """Tell whether a value of a tuple is an input of its own, rather than a number."""
    tensors = isinstance(value, list) and len(value) > 0 and isinstance(value[0], Tensor)
    return isinstance(value, Tensor | Mapping) or hasattr(value, "__array__") or tensors


def _is_ragged(part: list[Any]) -> bool:
    """Tell whether a list holds dicts, as a detector's targets, or tensors of several shapes, as its images."""
    if all(isinstance(entry, Mapping) for entry in part):
        return len(part) > 0
    return all(isinstance(entry, Tensor) for entry in part) and len({entry.shape for entry in part}) > 1


def _is_text(part: Any) -> bool:
    if isinstance(part, str) or not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
        return False
    if not isinstance(part, Tensor) and hasattr(part, "__array__"):
        array = part.to_numpy() if hasattr(part, "to_numpy") else part
        return array.dtype.kind in "US" or (array.dtype.kind == "O" and all(isinstance(x, str) for x in array.flat))
    return len(part) > 0 and all(isinstance(entry, str) for entry in part)
