"""TensorRT, for NVIDIA devices: an engine built from the ONNX graph, whose QDQ pairs give its int8 ranges.

TensorRT supports only symmetric int8, so the graph's activations are signed with zero points of 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs, Split
from kmr.runtimes.onnxruntime import OnnxRuntime
from kmr.runtimes.program import Signature
from kmr.runtimes.runtime import Runtime, Session, missing


class TensorRTSession(Session):
    """A TensorRT engine on the current CUDA device."""

    def __init__(self, artifact: bytes, signature: Signature) -> None:
        import tensorrt

        super().__init__(1, artifact)
        self.device = torch.device("cuda")
        self._engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(artifact)
        if self._engine is None:
            raise KMRError("TensorRT cannot load the engine that it built: check its version against the driver's")
        self._context = self._engine.create_execution_context()
        self._signature = signature
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == tensorrt.TensorIOMode.INPUT]
        self._output = next(name for name in names if modes[name] == tensorrt.TensorIOMode.OUTPUT)

    def bind(self, inputs: Inputs) -> Callable[[], Tensor]:
        tensors = self._signature.flatten(inputs)
        named = {n: t.contiguous().cuda() for n, t in zip(self._signature.names, tensors, strict=True)}

        def run() -> Tensor:
            for name in self._inputs:
                self._context.set_input_shape(name, tuple(named[name].shape))
                self._context.set_tensor_address(name, named[name].data_ptr())
            output = torch.empty(tuple(self._context.get_tensor_shape(self._output)), device="cuda")
            self._context.set_tensor_address(self._output, output.data_ptr())
            self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
            torch.cuda.synchronize()
            return output

        return run

    def __call__(self, inputs: Inputs) -> Tensor:
        return self.bind(inputs)().cpu()


@final
@dataclass(frozen=True, kw_only=True)
class TensorRT(Runtime):
    """TensorRT on the current CUDA device.

    Args:
        graph: exports the ONNX graph and decides its precision.
        largest_batch: the largest batch size of the engine.
    """

    name: str = "TensorRT"
    graph: OnnxRuntime = field(default_factory=lambda: OnnxRuntime(signed_activations=True))
    largest_batch: int = 256

    def probe(self) -> str | None:
        if (why := missing("tensorrt", extra="tensorrt")) is not None:
            return why
        return self.graph.probe() if torch.cuda.is_available() else "no CUDA device"

    def prepare(
        self, model: nn.Module, example_inputs: Inputs, *, threads: int = 1, calibration: Split | None = None
    ) -> TensorRTSession:
        self.require()
        made, signature = self.graph.export(model, example_inputs, calibration=calibration)
        shapes = {
            name: tuple(tensor.shape[1:])
            for name, tensor in zip(signature.names, signature.flatten(example_inputs), strict=True)
        }
        return TensorRTSession(_engine(made.SerializeToString(), shapes, self.largest_batch), signature)


def _engine(graph: bytes, shapes: dict[str, tuple[int, ...]], largest: int) -> bytes:
    import tensorrt as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser: Any = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse(graph):
        why = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise KMRError(f"TensorRT cannot load the graph: {' '.join(why.split())[:300]}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        profile.set_shape(name, (1, *shapes[name]), (min(32, largest), *shapes[name]), (largest, *shapes[name]))
    config.add_optimization_profile(profile)
    if hasattr(trt.BuilderFlag, "INT8"):
        # Versions with weakly typed networks need this flag to follow the graph's QDQ pairs.
        config.set_flag(trt.BuilderFlag.INT8)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise KMRError("TensorRT could not build an engine from the graph: see its log")
    return bytes(built)
