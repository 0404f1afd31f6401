"""Descriptions of inputs in JSON values, from which a batch of the same form is made."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kmr.core import KMRError
from kmr.data.structures import Inputs


def describe_inputs(inputs: Inputs) -> Any:
    """Describe a batch as JSON values: its nesting, and the shape of a sample and the dtype of each tensor."""
    match inputs:
        case Tensor():
            return {"tensor": list(inputs.shape[1:]), "dtype": str(inputs.dtype).removeprefix("torch.")}
        case Mapping():
            return {"mapping": {str(key): describe_inputs(value) for key, value in inputs.items()}}
        case tuple() | list():
            return {"tuple": [describe_inputs(value) for value in inputs]}
        case None | bool() | int() | float() | str():
            return {"value": inputs}
        case _:
            return None


def described_inputs(description: Any) -> Inputs:
    """Return a batch of two samples of zeros that fits a description.

    Raises:
        KMRError: the description is not one that `describe_inputs` returns.
    """
    match description:
        case {"tensor": list(shape), "dtype": str(dtype)}:
            return torch.zeros(2, *shape, dtype=getattr(torch, dtype))
        case {"mapping": dict(parts)}:
            return {key: described_inputs(value) for key, value in parts.items()}
        case {"tuple": list(parts)}:
            return tuple(described_inputs(value) for value in parts)
        case {"value": value}:
            return value
        case _:
            raise KMRError(f"invalid description of inputs: {description!r}")
