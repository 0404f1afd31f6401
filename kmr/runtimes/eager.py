"""Eager PyTorch: always available, on the model's device."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from kmr.core import device_of
from kmr.core.device import synchronize
from kmr.data import Inputs, Split, call_with, fit_inputs, forward
from kmr.representation.activations import without_quantizers
from kmr.representation.weights import strip_all
from kmr.runtimes.runtime import Runtime, Session


class EagerSession(Session):
    """A plain copy of a model without grids and masks, so that timing measures the dense kernels."""

    def __init__(self, model: nn.Module, threads: int) -> None:
        super().__init__(threads)
        self.model = without_quantizers(strip_all(copy.deepcopy(model))).eval()
        self.device = device_of(model)

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        fitted = fit_inputs(self.model, inputs)

        @torch.inference_mode()
        def run() -> Any:
            output = call_with(self.model, fitted)
            synchronize(self.device)
            return output

        return run

    def __call__(self, inputs: Inputs) -> Tensor:
        with torch.inference_mode():
            return forward(self.model, inputs).cpu()


@final
@dataclass(frozen=True, kw_only=True)
class Eager(Runtime):
    """PyTorch without compilation, as in training."""

    name: str = "eager PyTorch"

    def probe(self) -> str | None:
        return None

    def prepare(
        self, model: nn.Module, example_inputs: Inputs, *, threads: int = 1, calibration: Split | None = None
    ) -> EagerSession:
        return EagerSession(model, threads)
