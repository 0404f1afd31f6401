"""Integer ONNX graphs from ONNX Runtime's quantizers: static int8, dynamic int8, and int4 weights.

Static int8 stores weights in one byte each, with a scale per output channel, and activations in unsigned bytes with
ranges from calibration data (Jacob et al., 2018). The integer kernels of x86 need unsigned activations and signed
weights; with both signed, the same model is slower than in float32. Dynamic int8 finds activation ranges at run time.
Int4 weights are stored in blocks and multiplied in 8 bits or float32: they save bytes, but not always time.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kmr.runtimes.onnx_graph import quiet

if TYPE_CHECKING:
    import numpy as np

GraphInputs: TypeAlias = "dict[str, np.ndarray]"
Method = Literal["minmax", "percentile", "entropy"]


def static_int8(
    graph: Any,
    feeds: Sequence[GraphInputs],
    *,
    method: Method = "minmax",
    reduce_range: bool = False,
    signed: bool = False,
) -> Any:
    """Quantize weights and activations to 8 bits, as QDQ pairs around each operation.

    Args:
        graph: a float32 graph with folded normalisations.
        feeds: batches of calibration data, by input name.
        method: how activation ranges follow from the data.
        reduce_range: use 7-bit weights, for processors without VNNI, whose 8-bit sums of products may saturate.
        signed: use signed activations, symmetric around 0.
    """
    from onnxruntime import quantization as q

    methods = {
        "minmax": q.CalibrationMethod.MinMax,
        "percentile": q.CalibrationMethod.Percentile,
        "entropy": q.CalibrationMethod.Entropy,
    }

    class Reader(q.CalibrationDataReader):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> "GraphInputs | None":
            return next(self._feeds, None)

    with _files(graph) as (source, target):
        q.quantize_static(
            source, target, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True, reduce_range=reduce_range,
            activation_type=q.QuantType.QInt8 if signed else q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
            calibrate_method=methods[method], extra_options={"ActivationSymmetric": signed},
        )  # fmt: skip
        return _load(target)


def dynamic_int8(graph: Any, *, reduce_range: bool = False) -> Any:
    """Quantize the weights of matrix products and embeddings to 8 bits; activations are quantized at run time."""
    from onnxruntime import quantization as q

    with _files(graph) as (source, target):
        q.quantize_dynamic(source, target, per_channel=True, reduce_range=reduce_range, weight_type=q.QuantType.QInt8)
        return _load(target)


def int4_weights(graph: Any, *, block_size: int = 32) -> Any:
    """Store the weights of matrix products and embeddings in 4 bits, with a scale for each block.

    Args:
        graph: a float32 graph.
        block_size: weights that share a scale: 16, 32, 64, 128 or 256.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=block_size, is_symmetric=True, accuracy_level=4, op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )  # fmt: skip
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    products = ONNXModel(copied)
    products.replace_gemm_with_matmul()
    with quiet(), warnings.catch_warnings():
        # The quantizer divides a block of zeros by its scale of 0 before it handles the case.
        warnings.simplefilter("ignore", RuntimeWarning)
        quantizer = MatMulNBitsQuantizer(products.model, algo_config=config)
        quantizer.process()
    return quantizer.model.model


@contextmanager
def _files(graph: Any) -> Iterator[tuple[Path, Path]]:
    import onnx

    with tempfile.TemporaryDirectory() as folder, quiet():
        source = Path(folder) / "float.onnx"
        onnx.save(graph, source)
        yield source, Path(folder) / "integer.onnx"


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(path)
