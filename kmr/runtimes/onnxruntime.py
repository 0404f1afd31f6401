"""ONNX Runtime: the default for deployment, in float32 or with integer kernels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs, Split
from kmr.representation.weights import read_weight, weight_layers
from kmr.runtimes import onnx_graph, onnx_int8, onnx_qdq
from kmr.runtimes.program import Signature
from kmr.runtimes.runtime import Runtime, Session

if TYPE_CHECKING:
    import numpy as np

Precision = Literal["auto", "fp32", "int8", "int8_own", "int8_dynamic", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "int8", "int8_own", "int8_dynamic", "int4")
_CALIBRATION_BATCH = 64


class OnnxSession(Session):
    """An ONNX graph in ONNX Runtime, on the CPU."""

    def __init__(self, artifact: bytes, signature: Signature, threads: int) -> None:
        import onnxruntime

        super().__init__(threads, artifact)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise KMRError(f"ONNX Runtime cannot load the graph: {' '.join(str(error).split())[:300]}") from error
        self._signature = signature
        # The exporter removes inputs that the output does not depend on.
        self._inputs = [value.name for value in self._session.get_inputs()]

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        feed = self._feed(inputs)
        run = self._session.run
        return lambda: run(None, feed)

    def __call__(self, inputs: Inputs) -> Tensor:
        return torch.from_numpy(self._session.run(None, self._feed(inputs))[0])

    def _feed(self, inputs: Inputs) -> "dict[str, np.ndarray]":
        named = feed(self._signature, inputs)
        return {name: named[name] for name in self._inputs}


@final
@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU.

    Args:
        precision: `fp32`; `int8`, static with activation ranges from calibration data; `int8_own`, the model's own
            grids of weights and activations; `int8_dynamic` and `int4` (weights), for models of matrix products;
            `auto`: int8_own if activations are on grids, int8 if more than half of the linear and convolution weights
            are on grids of at most 8 bits, else fp32.
        calibration_samples: samples for the activation ranges, at least 1.
        calibration_method: `minmax`, `percentile` or `entropy`.
        reduce_range: 7-bit weights in int8, for processors without VNNI, whose 8-bit sums of products may saturate.
        signed_activations: symmetric, signed activations in int8; other runtimes need them, but they are slow here.
        block_size: number of weights that share a scale in int4.

    Raises:
        KMRError: an option is out of range.
    """

    name: str = "ONNX Runtime"
    precision: Precision = "auto"
    calibration_samples: int = 512
    calibration_method: onnx_int8.Method = "minmax"
    reduce_range: bool = False
    signed_activations: bool = False
    block_size: int = 32

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise KMRError(
                f"the precision of {self.name} must be one of {', '.join(PRECISIONS)}, not {self.precision!r}"
            )
        if self.calibration_method not in ("minmax", "percentile", "entropy"):
            raise KMRError(f"calibration_method must be minmax, percentile or entropy, not {self.calibration_method!r}")
        if self.calibration_samples < 1:
            raise KMRError(f"calibration_samples must be at least 1, not {self.calibration_samples}")

    def probe(self) -> str | None:
        return onnx_graph.why_not()

    def prepare(
        self, model: nn.Module, example_inputs: Inputs, *, threads: int = 1, calibration: Split | None = None
    ) -> OnnxSession:
        graph, signature = self.export(model, example_inputs, calibration=calibration)
        return OnnxSession(graph.SerializeToString(), signature, threads)

    def export(
        self, model: nn.Module, example_inputs: Inputs, *, calibration: Split | None = None
    ) -> tuple[Any, Signature]:
        """Return the graph of the session, an `onnx.ModelProto`, and the signature of its inputs.

        Raises:
            NotHere: a package is missing.
            KMRError: the model cannot be exported, or lacks the calibration data or grids that the precision needs.
        """
        self.require()
        precision = self.precision_of(model)
        if precision == "int8" and calibration is None:
            raise KMRError("static int8 needs calibration data for the activation ranges: give it")
        if precision == "int8_own" and not onnx_qdq.on_grids(model):
            raise KMRError(
                "the precision int8_own needs a model with grids of activations, and this one has none: quantize it "
                "with the rule static, or choose the precision int8, which calibrates"
            )
        if precision == "int8_own":
            graph, signature = onnx_qdq.to_qdq(model, example_inputs)
            return onnx_graph.slim(graph), signature
        graph, signature = onnx_graph.to_onnx(model, example_inputs)
        match precision:
            case "int8":
                assert calibration is not None
                feeds = self._feeds(signature, calibration)
                graph = onnx_int8.static_int8(
                    onnx_graph.folded(graph), feeds,
                    method=self.calibration_method, reduce_range=self.reduce_range, signed=self.signed_activations,
                )  # fmt: skip
            case "int8_dynamic":
                graph = onnx_int8.dynamic_int8(onnx_graph.folded(graph), reduce_range=self.reduce_range)
            case "int4":
                graph = onnx_int8.int4_weights(onnx_graph.folded(graph), block_size=self.block_size)
            case _:
                pass
        return onnx_graph.slim(graph), signature

    def precision_of(self, model: nn.Module) -> Precision:
        """Return the precision for a model: the chosen one, or with `auto` the one that suits its weights."""
        if self.precision != "auto":
            return self.precision
        if onnx_qdq.on_grids(model):
            return "int8_own"
        total = small = 0
        for _, layer in weight_layers(model):
            if not isinstance(layer, nn.Embedding):
                state = read_weight(layer)
                total += state.weight.numel()
                small += state.weight.numel() if state.grid is not None and state.grid.bits <= 8 else 0
        return "int8" if 2 * small > total else "fp32"

    def _feeds(self, signature: Signature, calibration: Split) -> "list[dict[str, np.ndarray]]":
        split = replace(calibration.subset(self.calibration_samples), batch_size=_CALIBRATION_BATCH)
        return [feed(signature, inputs) for inputs, _ in split.batches()]


def feed(signature: Signature, inputs: Inputs) -> "dict[str, np.ndarray]":
    """Return a batch as arrays by input name, for ONNX Runtime."""
    tensors = signature.flatten(inputs)
    arrays = (tensor.detach().cpu().contiguous().numpy() for tensor in tensors)
    return dict(zip(signature.names, arrays, strict=True))
