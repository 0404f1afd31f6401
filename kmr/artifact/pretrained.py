"""Models of transformers: safe `from_pretrained`, and an architecture rebuilt from its saved config alone."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kmr.core import KMRError

PACKAGE = "transformers.models"
"""The package of the models' own code; code from a model hub is never imported."""
FROM_CONFIG = f"{__name__}.from_config"
_REFUSED = ("trust_remote_code", "use_kernels")


def check_arguments(target: str, arguments: Mapping[str, Any]) -> None:
    """Raise `KMRError` where the arguments of a transformers function would run code from a model hub, or a pickle."""
    if not target.startswith("transformers."):
        return
    for name in _REFUSED:
        if arguments.get(name):
            _refuse(target, name, arguments[name], "runs code from a model hub")
    if "use_safetensors" in arguments and arguments["use_safetensors"] is not True:
        _refuse(target, "use_safetensors", arguments["use_safetensors"], "may read a pickle")
    _check_attention(target, arguments)


def from_config(model_class: str, config: Mapping[str, Any], dtype: str = "float32") -> nn.Module:
    """Build a transformers model with random weights: what an artifact names instead of `from_pretrained`.

    Args:
        model_class: `transformers.models.<module>.<class>`.
        config: the model's config as JSON values.
        dtype: the type of its parameters.

    Raises:
        KMRError: the class is none of transformers' own models, is not installed, or does not take the config.
    """
    module_name, _, name = model_class.rpartition(".")
    if not module_name.startswith(f"{PACKAGE}."):
        raise KMRError(f"{model_class} is not a model of {PACKAGE}: pass the base model itself as base")
    _check_attention(model_class, config)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise KMRError(f"{model_class} cannot be imported ({error}): pip install transformers") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(f"{PACKAGE}.")):
        raise KMRError(f"{model_class} is not a model of {PACKAGE}: pass the base model itself as base")
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise KMRError(f"dtype must name a type of torch such as bfloat16, not {dtype!r}")
    try:
        model: nn.Module = found(found.config_class.from_dict(dict(config)))  # type: ignore[attr-defined]
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise KMRError(f"{model_class} does not take its saved config: {error}") from error
    for parameter in model.parameters():  # buffers keep the type that the config gives them
        parameter.data = parameter.data.to(kind)
    return model


def arguments_of(model: nn.Module) -> dict[str, Any] | None:
    """Return the arguments with which `from_config` rebuilds a model; None for one that is not transformers' own."""
    kind = type(model)
    types = {parameter.dtype for parameter in model.parameters()}
    if not kind.__module__.startswith(f"{PACKAGE}.") or not hasattr(model, "config") or len(types) != 1:
        return None
    (dtype,) = types
    return {
        "model_class": f"{kind.__module__}.{kind.__qualname__}",
        "config": model.config.to_dict(),  # type: ignore[operator, union-attr]
        "dtype": str(dtype).removeprefix("torch."),
    }


def _check_attention(target: str, value: object, name: str = "") -> None:
    """Raise `KMRError` where an attention implementation names a repository, which would be downloaded and run."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_attention(target, inner, str(key) if not name.endswith("attn_implementation") else name)
    elif name.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
        _refuse(target, name, value, "runs code from a model hub")


def _refuse(target: str, name: str, value: object, why: str) -> None:
    raise KMRError(
        f"{target} is not called with {name}={value!r}, which {why}: leave it out, or call it in a function of yours "
        "and name that in _target_ and trusted_modules"
    )
