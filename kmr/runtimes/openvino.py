"""OpenVINO, for Intel processors and others: it runs the same ONNX graphs as ONNX Runtime, int8 included."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs, Split
from kmr.runtimes.onnxruntime import OnnxRuntime, feed
from kmr.runtimes.program import Signature
from kmr.runtimes.runtime import Runtime, Session, missing


class OpenVinoSession(Session):
    """A compiled OpenVINO model."""

    def __init__(self, artifact: bytes, signature: Signature, device: str, threads: int) -> None:
        import openvino

        super().__init__(threads, artifact)
        core = openvino.Core()
        # By default, processors with bfloat16 compute float32 models in it.
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"} if device == "CPU" else {}
        try:
            self._compiled = core.compile_model(core.read_model(artifact), device, settings)
        except Exception as error:  # its exceptions share no base class
            raise KMRError(f"OpenVINO cannot load the graph: {' '.join(str(error).split())[:300]}") from error
        self._signature = signature
        self._inputs = [port.get_any_name() for port in self._compiled.inputs]

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        named = feed(self._signature, inputs)
        request = self._compiled.create_infer_request()
        taken = {name: named[name] for name in self._inputs}
        return lambda: request.infer(taken)

    def __call__(self, inputs: Inputs) -> Tensor:
        found = self.bind(inputs)()
        return torch.from_numpy(found[self._compiled.outputs[0]].copy())


@final
@dataclass(frozen=True, kw_only=True)
class OpenVino(Runtime):
    """OpenVINO on one device.

    Args:
        graph: exports the ONNX graph and decides its precision.
        device: OpenVINO's name of the device.
    """

    name: str = "OpenVINO"
    graph: OnnxRuntime = field(default_factory=OnnxRuntime)
    device: str = "CPU"

    def probe(self) -> str | None:
        return missing("openvino", extra="openvino") or self.graph.probe()

    def prepare(
        self, model: nn.Module, example_inputs: Inputs, *, threads: int = 1, calibration: Split | None = None
    ) -> OpenVinoSession:
        self.require()
        made, signature = self.graph.export(model, example_inputs, calibration=calibration)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return OpenVinoSession(made.SerializeToString(), signature, self.device, threads)
