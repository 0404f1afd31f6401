"""Loader of artifacts for `mlflow.pyfunc`, for models that cannot be exported as a graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import kmr
from kmr.data import forward


class ServedModel:
    """A front member as `mlflow.pyfunc` calls it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> np.ndarray[Any, Any]:
        """Run the model on an array, a list of arrays (positional arguments) or a mapping of arrays (by name)."""
        match data:
            case Mapping():
                inputs: Any = {str(name): torch.as_tensor(np.asarray(value)) for name, value in data.items()}
            case tuple() | list():
                inputs = tuple(torch.as_tensor(np.asarray(value)) for value in data)
            case _:
                inputs = torch.as_tensor(np.asarray(data))
        with torch.no_grad():
            return forward(self.model, inputs).cpu().numpy()


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> ServedModel:
    """Load the artifact at a path; `trusted_modules` in the model's configuration names code that may build it."""
    trusted = (model_config or {}).get("trusted_modules", ())
    return ServedModel(kmr.load(path, trusted_modules=trusted))
