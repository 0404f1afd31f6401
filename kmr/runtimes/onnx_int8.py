"""Integer ONNX graphs by ONNX Runtime's own quantizers: static int8, dynamic int8, and int4 weights.

Static int8 stores each weight in one byte per output channel and keeps activations in unsigned bytes whose ranges are
read on calibration data (Jacob et al., 2018). Unsigned activations with signed weights is the form that the integer
kernels of x86 take; with both signed the same model runs slower than in float32. Dynamic int8 finds the ranges of
activations as it runs. Int4 weights are stored in blocks and multiplied in 8 bits or float32: bytes, not always time.
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

Feed: TypeAlias = "dict[str, np.ndarray]"
Method = Literal["minmax", "percentile", "entropy"]


def static_int8(
    graph: Any, feeds: Sequence[Feed], *, method: Method = "minmax", reduce_range: bool = False, signed: bool = False
) -> Any:
    """Quantize weights and activations to 8 bits, as QDQ pairs around each operation.

    Args:
        graph: a float32 graph, with its normalisations folded.
        feeds: batches of calibration data, by input name.
        method: how the range of an activation is read off them.
        reduce_range: 7-bit weights, for processors without VNNI, whose 8-bit sums of products may saturate.
        signed: activations in signed bytes, evenly around 0.
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

        def get_next(self) -> "Feed | None":
            return next(self._feeds, None)

    with _files(graph) as (source, target):
        q.quantize_static(
            source, target, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True, reduce_range=reduce_range,
            activation_type=q.QuantType.QInt8 if signed else q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
            calibrate_method=methods[method], extra_options={"ActivationSymmetric": signed},
        )  # fmt: skip
        return _load(target)


def dynamic_int8(graph: Any, *, reduce_range: bool = False) -> Any:
    """Quantize the weights of matrix products and embeddings to 8 bits; activations are quantized as it runs."""
    from onnxruntime import quantization as q

    with _files(graph) as (source, target):
        q.quantize_dynamic(source, target, per_channel=True, reduce_range=reduce_range, weight_type=q.QuantType.QInt8)
        return _load(target)


def int4_weights(graph: Any, *, block_size: int = 32) -> Any:
    """Store the weights of matrix products and embeddings in 4 bits, with a scale for each block of them.

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
        # A block of zeros is divided by its scale of 0 before it is told apart.
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
