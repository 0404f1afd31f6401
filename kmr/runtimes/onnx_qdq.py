"""ONNX graphs with a model's own 8-bit grids of weights and activations.

Each `input_quantizer` and `output_quantizer` of a layer (`kmr.representation.activations`) becomes a QuantizeLinear and
a DequantizeLinear with its scale and zero point. Each weight on a grid becomes its codes and a DequantizeLinear. The
integer kernels thus compute with the grids that fine-tuning trained, without another calibration.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from kmr.data import Inputs
from kmr.representation.weights import Grid, read_weight, weight_layers
from kmr.runtimes.onnx_graph import on_cpu, to_onnx
from kmr.runtimes.program import Signature

if TYPE_CHECKING:
    import numpy as np

_BITS = 8
_SIDES = ("input_quantizer", "output_quantizer")


class _Pair(nn.Module):
    """A quantization and dequantization in operations that the exporter recognises."""

    def __init__(self, scale: float, zero_point: int, bits: int) -> None:
        super().__init__()
        self.scale, self.zero_point, self.bits = scale, zero_point, bits

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid."""
        if self.bits < _BITS:
            # The operation saturates at 8 bits; a smaller grid must clamp before it.
            highest = 2**self.bits - 1
            x = x.clamp(-self.zero_point * self.scale, (highest - self.zero_point) * self.scale)
        known = torch.ops.quantized_decomposed
        codes = known.quantize_per_tensor(x, self.scale, self.zero_point, 0, 255, torch.uint8)
        found: Tensor = known.dequantize_per_tensor(codes, self.scale, self.zero_point, 0, 255, torch.uint8)
        return found


@dataclass(frozen=True, eq=False)
class _Codes:
    """A stored weight: its codes, and one scale and zero point for all or for each index along `axis`."""

    codes: "np.ndarray"
    scale: "np.ndarray"
    zero_point: "np.ndarray"
    axis: int


def on_grids(model: nn.Module) -> bool:
    """Tell whether the model has activations on fixed grids of at most 8 bits."""
    return any(_static(getattr(module, side, None)) for module in model.modules() for side in _SIDES)


def to_qdq(model: nn.Module, example_inputs: Inputs) -> tuple[Any, Signature]:
    """Export a model with its own grids; weights and activations without a grid of at most 8 bits stay in float32.

    Raises:
        KMRError: the model cannot be exported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch.ao.quantization.fx._decomposed  # noqa: F401  registers the operations of `_Pair`
    marked = on_cpu(model).float()  # the operations of `_Pair` take float32
    for module in list(marked.modules()):
        for side in _SIDES:
            quantizer: Any = getattr(module, side, None)
            if _static(quantizer):
                pair = _Pair(float(quantizer.scale), int(quantizer.zero_point), quantizer.bits)
                setattr(module, side, pair)
    graph, signature = to_onnx(marked, example_inputs)
    for path, layer in weight_layers(model):
        stored = _codes(layer)
        if stored is not None:
            _replace(graph, path, read_weight(layer).weight, stored)
    return graph, signature


def _static(quantizer: Any) -> bool:
    return (
        isinstance(quantizer, nn.Module)
        and hasattr(quantizer, "scale")
        and hasattr(quantizer, "zero_point")
        and 1 < cast(int, quantizer.bits) <= _BITS
    )


def _codes(layer: nn.Module) -> _Codes | None:
    """Return the stored form of a layer's weight, or None if it has no grid that fits 8 bits."""
    state = read_weight(layer)
    grid = state.grid
    if not isinstance(grid, Grid) or grid.bits > _BITS or grid.group:
        return None
    scale, zero_point = grid.scale.detach(), grid.zero_point.detach()
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    middle = 2 ** (grid.bits - 1)
    whole = bool((zero_point == zero_point.round()).all() & (zero_point >= 0).all() & (zero_point <= 255).all())
    if len(axes) > 1 or not whole:
        return None
    # A masked weight is 0, and its code is the zero point.
    codes = grid.codes(state.weight)
    if not torch.equal(grid.values(codes), state.weight):
        return None
    codes, scale, zero_point = (part.cpu().float() for part in (codes, scale, zero_point))
    symmetric = bool((zero_point == middle).all())
    import numpy as np

    dtype = np.int8 if symmetric else np.uint8
    shift = middle if symmetric else 0
    flat = (-1,) if axes else ()
    return _Codes(
        (codes - shift).numpy().astype(dtype),
        scale.numpy().astype(np.float32).reshape(flat),
        (zero_point - shift).numpy().astype(dtype).reshape(flat),
        axes[0] if axes else 0,
    )


def _replace(graph: Any, path: str, weight: Tensor, stored: _Codes) -> None:
    """Replace a float weight, which the exporter may have transposed, by codes and a DequantizeLinear."""
    import numpy as np
    from onnx import helper, numpy_helper

    named = {initializer.name: initializer for initializer in graph.graph.initializer}
    values = weight.detach().cpu().float().numpy()
    found = named.get(f"model.{path}.weight" if path else "model.weight")
    transposed = False
    if found is None or tuple(found.dims) != values.shape:
        found = next((i for i in named.values() if values.ndim == 2 and _is(i, values.T)), None)
        transposed = True
    if found is None:
        return
    name, codes, axis = found.name, stored.codes, stored.axis
    if transposed:
        codes, axis = np.ascontiguousarray(codes.T), 1 - axis
    parts = {"codes": codes, "scale": stored.scale, "zero_point": stored.zero_point}
    graph.graph.initializer.remove(found)
    for part, array in parts.items():
        graph.graph.initializer.append(numpy_helper.from_array(array, f"{name}.{part}"))
    node = helper.make_node("DequantizeLinear", [f"{name}.{part}" for part in parts], [name], axis=axis)
    graph.graph.node.insert(0, node)


def _is(initializer: Any, values: "np.ndarray") -> bool:
    import numpy as np
    from onnx import numpy_helper

    if tuple(initializer.dims) != values.shape:
        return False
    return bool(np.array_equal(numpy_helper.to_array(initializer), values))
