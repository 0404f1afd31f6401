"""Calling a model on a batch, and the tensor in what it returns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from kmr.core import KMRError, device_of
from kmr.core.key_value_cache import without_key_value_cache
from kmr.data.structures import Inputs, map_tensors, moved

NAMED_OUTPUTS = ("logits", "out", "prediction_logits", "last_hidden_state")
"""Names of the output in what a model returns, in order: transformers' and torchvision's."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model on a batch, on the model's device, and return what it returns (see `fit_inputs`, `call_with`)."""
    with without_key_value_cache(model):
        return call_with(model, fit_inputs(model, inputs))


def fit_inputs(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return a batch on the model's device.

    Floating-point inputs are converted to the type of the model's weights, if these have a single one.
    """
    inputs = moved(inputs, device_of(model))
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(types) == 1:
        wanted = next(iter(types))
        if wanted != torch.float32 or _has_double(inputs):
            inputs = map_tensors(lambda t: t.to(wanted) if t.is_floating_point() else t, inputs)
    return inputs


def call_with(function: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a function on a batch: a tuple or list as positional arguments, a mapping as keyword arguments."""
    match inputs:
        case Mapping():
            return function(**inputs)
        case PackedSequence():
            return function(inputs)
        case tuple() | list():
            return function(*inputs)
        case _:
            return function(inputs)


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """Call a model on a batch and return its output tensor, on the model's device (see `call`, `output_tensor`).

    Raises:
        KMRError: the output contains no such tensor.
    """
    return output_tensor(call(model, inputs))


def output_tensor(output: Any, name: str | int | None = None) -> Tensor:
    """Return the tensor in a model's return value.

    It is the value itself, its `logits` or `out`, the only tensor of a mapping, or the first tensor of a tuple.

    Args:
        output: what the model returned.
        name: a key, attribute or place that says which part to take.

    Raises:
        KMRError: the output contains no such tensor.
    """
    if name is not None:
        return _named(output, name)
    if isinstance(output, Tensor):
        return output
    for known in NAMED_OUTPUTS:
        found = output.get(known) if isinstance(output, Mapping) else getattr(output, known, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        if len(tensors) == 1:
            return tensors[0]
        raise KMRError(
            f"the model returned a dict of {', '.join(map(str, output))}: name the part to compare with the targets "
            "in task.output"
        )
    if isinstance(output, tuple | list) and len(output) > 0 and not isinstance(output[0], str):
        return output_tensor(output[0])
    raise KMRError(
        f"the model returned {type(output).__name__}: return a tensor, a tuple of tensors or an object with .logits, "
        "or name the part to compare with the targets in task.output"
    )


def _named(output: Any, name: str | int) -> Tensor:
    try:
        by_key = isinstance(name, int) or isinstance(output, Mapping)
        found = output[name] if by_key else getattr(output, str(name))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        parts = list(output) if isinstance(output, Mapping) else type(output).__name__
        raise KMRError(f"task.output is {name!r}, which the model's return value does not have: {parts}") from error
    return output_tensor(found)


def _has_double(inputs: Inputs) -> bool:
    found: list[bool] = []
    map_tensors(lambda t: found.append(t.dtype == torch.float64), inputs)
    return any(found)
