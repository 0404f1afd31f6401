"""Descriptions of objects as JSON: settings of rules, meters and recipes, and digests of large values.

Two objects with the same description behave the same. An object that cannot be described (a lambda, unknown content)
is an error: a key that omits it could return another object's result.
"""

import functools
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from kmr.artifact.attributes import UNDESCRIBED, encode
from kmr.cache.code import code_behind
from kmr.cache.keys import exact_json
from kmr.cache.modules import Home, home_of, version_of
from kmr.core import KMRError
from kmr.data import Data, Split

_OWN = frozenset(nn.Module().__dict__)


def describe(value: Any, *, without: Collection[str] = ()) -> Any:
    """Describe an object in JSON values.

    It can be a JSON value, a tensor or model (described by digest), a data split, a dataclass (by its fields), a class
    or function of a module (by name, and by the digest of the code behind it), a partial application, an enumeration, a
    torch dtype or device, or anything with a `fingerprint()`.

    Args:
        value: the object.
        without: names of fields that do not affect its results, such as a progress callback.

    Raises:
        KMRError: the object, or a part of it, cannot be described.
    """
    match value:
        case Enum():
            return {**code_of(type(value)), "member": value.name}
        case None | bool() | int() | float() | str():
            exact_json(value)
            return value
        case list() | tuple():
            return [describe(part) for part in value]
        case Mapping() if all(isinstance(key, str) for key in value):
            return {"mapping": {key: describe(part) for key, part in value.items() if key not in without}}
        case Tensor():
            return {"tensor": _digest_of_tensor(value)}
        case torch.dtype() | torch.device():
            return {"torch": str(value)}
        case nn.Module():
            return {"model": fingerprint(value)}
        case Split():
            task = {} if value.task is None else {"task": describe(value.task)}
            return {"split": value.fingerprint(), "batch_size": value.batch_size, **task}
        case Data():
            return {"data": [describe(split) for split in (value.train, value.validation, value.test)]}
        case functools.partial():
            return {"partial": describe(value.func), "of": [describe(value.args), describe(value.keywords)]}
        case type() | FunctionType() | BuiltinFunctionType():
            return code_of(value)
        case MethodType():
            return {"method": value.__name__, "of": describe(value.__self__)}
    if callable(stamp := getattr(value, "fingerprint", None)):
        return {**code_of(type(value)), "fingerprint": stamp()}
    if is_dataclass(value):
        named = [field.name for field in fields(value) if field.name not in without]
        return {**code_of(type(value)), "fields": {name: describe(getattr(value, name)) for name in named}}
    raise KMRError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot be part of a cache key: make it a dataclass, or "
        "give it a fingerprint() that returns a digest of its content"
    )


def fingerprint(model: nn.Module) -> str:
    """Return a digest of a model: its modules and their code, plain attributes and modes, and all its tensors."""
    digest = hashlib.sha256()
    for path, module in model.named_modules(remove_duplicate=False):
        plain = {key: encode(value) for key, value in sorted(vars(module).items()) if key not in _OWN}
        known = {key: value for key, value in plain.items() if value is not UNDESCRIBED}
        digest.update(exact_json([path, _code(type(module)), module.training, known]).encode())
    for group in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in group:
            digest.update(f"{name} {tensor.requires_grad} {_digest_of_tensor(tensor)}\n".encode())
    return digest.hexdigest()


def code_of(named: Any) -> dict[str, Any]:
    """Return the name of a class or function, and the digest of the code behind it or the version of its library.

    Raises:
        KMRError: another process could not find it by its name (a lambda or local function).
    """
    if "<" in named.__qualname__:
        raise KMRError(
            f"{named.__module__}.{named.__qualname__} cannot be part of a cache key: define it at the top of a module"
        )
    return _code(named)


def _code(named: Any) -> dict[str, Any]:
    module = str(getattr(named, "__module__", None))
    code: dict[str, Any] = {"code": f"{module.replace('__mp_main__', '__main__')}:{named.__qualname__}"}
    match home_of(module):
        case Home.STANDARD:
            # torch derives a class from the user's where a module is parametrized.
            bases = [base for base in getattr(named, "__bases__", ()) if home_of(base.__module__) != Home.STANDARD]
            return {**code, "bases": [_code(base) for base in bases]} if bases else code
        case Home.LIBRARY:
            return {**code, "version": version_of(module.partition(".")[0])}
        case _:
            return {**code, "source": code_behind(named).digest}


def _digest_of_tensor(tensor: Tensor) -> str:
    try:
        plain = tensor.detach().cpu()
    except NotImplementedError:  # of `meta`, which holds no values
        plain = None
    if plain is None or plain.layout != torch.strided or plain.is_quantized:
        raise KMRError(f"cannot digest a tensor of layout {tensor.layout} on {tensor.device}: it has no plain bytes")
    flat = plain.contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(flat.resolve_conj().resolve_neg().view(torch.uint8).numpy().data)
    return digest.hexdigest()
