"""Plain module attributes as JSON, distinguished from those that only their own code can build."""

import math
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kmr.core import KMRError

UNDESCRIBED = object()
"""The result of `encode` for a value that JSON cannot represent."""


def encode(value: object) -> Any:
    """Return a value's JSON form, or `UNDESCRIBED` if it has none.

    None, numbers, strings, tensor dtypes, functions of `torch.nn.functional`, and tuples, lists and string-keyed dicts
    of these have one.
    """
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, float) and kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if kind is list and isinstance(value, list):
        parts = [encode(part) for part in value]
        return UNDESCRIBED if UNDESCRIBED in parts else parts
    if kind in (tuple, torch.Size) and isinstance(value, tuple):
        parts = [encode(part) for part in value]
        return UNDESCRIBED if UNDESCRIBED in parts else {"size" if kind is torch.Size else "tuple": parts}
    if kind is dict and isinstance(value, dict):
        pairs = {key: encode(part) for key, part in value.items()}
        plain = all(type(key) is str for key in pairs) and UNDESCRIBED not in pairs.values()
        return {"dict": pairs} if plain else UNDESCRIBED
    name = getattr(value, "__name__", None)
    if isinstance(name, str) and callable(value) and getattr(functional, name, None) is value:
        return {"function": name}
    return UNDESCRIBED


def decode(form: Any) -> Any:
    """Return the value that a JSON form represents.

    Raises:
        KMRError: the form is of an unknown kind.
    """
    if isinstance(form, list):
        return [decode(part) for part in form]
    if not isinstance(form, dict):
        return form
    ((kind, content),) = form.items()
    match kind:
        case "float":
            return float(content)
        case "dtype" if isinstance(getattr(torch, content, None), torch.dtype):
            return getattr(torch, content)
        case "tuple":
            return tuple(decode(part) for part in content)
        case "size":
            return torch.Size(content)
        case "dict":
            return {key: decode(part) for key, part in content.items()}
        case "function" if callable(getattr(functional, content, None)):
            return getattr(functional, content)
    raise KMRError(f"unknown attribute in the artifact: {kind} {content!r}; load it with the version that saved it")


def same(one: Any, other: Any) -> bool:
    """Tell whether two values without a JSON form are interchangeable.

    Functions are compared by their code and closures, tensors by shape and type, other objects by class alone, since
    the code that built them decides their content.
    """
    if one is other:
        return True
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        return (
            one.__code__ == other.__code__
            and _alike(one.__defaults__ or (), other.__defaults__ or ())
            and _alike(_closed_over(one), _closed_over(other))
        )
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)


def _closed_over(function: FunctionType) -> tuple[Any, ...]:
    return tuple(cell.cell_contents for cell in function.__closure__ or ())


def _alike(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    if len(some) != len(others):
        return False
    for one, other in zip(some, others, strict=True):
        first, second = encode(one), encode(other)
        if UNDESCRIBED in (first, second):
            if not same(one, other):
                return False
        elif first != second:
            return False
    return True
