"""Quantizers held against independent ones: torch, torchao's affine primitives, ONNX's reference operators."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kmr.instantiations.quantization import affine_grid, fit_grid
from kmr.representation.activations import ActivationQuantizer, DynamicQuantizer
from kmr.representation.weights import Grid


def weight(seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 64, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-2, 1, 6)[:, None]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("group", [0, 16])
def test_torchao_affine_codes_and_values_bit_for_bit(bits: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        primitives: Any = pytest.importorskip("torchao.quantization.quant_primitives")
    # Scales that are powers of two: torchao multiplies by the reciprocal, here values are divided.
    grid = fit_grid(weight(), bits, dim=0, group=group, power_of_two=True)
    block = (1, group or 64)
    scale, zero = grid.scale.reshape(6, -1), grid.zero_point.reshape(6, -1)
    if bits == 1:
        grid = Grid(grid.scale, torch.zeros_like(grid.zero_point), 1, group=group)
        zero = torch.zeros_like(zero)
    codes = primitives.quantize_affine(weight(), block, scale, zero.int(), torch.uint8, 0, 2**bits - 1)
    assert torch.equal(grid.codes(weight()), codes.float())
    values = primitives.dequantize_affine(codes, block, scale, zero.int(), torch.uint8, 0, 2**bits - 1)
    assert torch.equal(grid(weight()), values)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_torchao_fits_the_same_affine_grids(bits: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        primitives: Any = pytest.importorskip("torchao.quantization.quant_primitives")
    scale, zero = primitives.choose_qparams_affine(
        weight(), primitives.MappingType.ASYMMETRIC, (1, 64), torch.uint8, 0, 2**bits - 1, eps=1e-30
    )
    ours = affine_grid(weight(), bits, 0)
    torch.testing.assert_close(ours[0], scale.reshape(6, 1), rtol=1e-6, atol=0)
    assert torch.equal(ours[1], zero.reshape(6, 1).float())


def _run(op: str, attributes: dict[str, Any], **inputs: np.ndarray) -> list[np.ndarray]:
    onnx: Any = pytest.importorskip("onnx")
    evaluator: Any = pytest.importorskip("onnx.reference").ReferenceEvaluator
    outputs = ["y", "scale", "zero"] if op == "DynamicQuantizeLinear" else ["y"]
    node = onnx.helper.make_node(op, list(inputs), outputs, **attributes)
    values = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for name, a in inputs.items()]  # fmt: skip
    graph = onnx.helper.make_graph(
        [node], "g", values, [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    found: list[np.ndarray] = evaluator(model).run(None, inputs)
    return found


def test_activations_equal_onnx_quantize_and_dequantize_bit_for_bit() -> None:
    x = torch.randn(4, 100, generator=torch.Generator().manual_seed(1)) * 3
    x[0, :8] = torch.tensor([0.0, 0.05, 0.15, 0.25, -0.05, 100.0, -100.0, 0.35])
    quantizer = ActivationQuantizer(0.1, 113, 8)
    scale, zero = np.float32(0.1).reshape(()), np.uint8(113).reshape(())
    (codes,) = _run("QuantizeLinear", {}, x=x.numpy(), s=scale, z=zero)
    (values,) = _run("DequantizeLinear", {}, x=codes, s=scale, z=zero)
    assert np.array_equal(quantizer(x).numpy(), values)


@pytest.mark.parametrize("layer", [nn.Linear(9, 6), nn.Conv2d(3, 6, 3)])
def test_int8_weights_per_channel_equal_onnx_bit_for_bit(layer: nn.Module) -> None:
    w = layer.weight.detach()  # type: ignore[operator, union-attr]
    grid = fit_grid(w, 8, scheme="symmetric", dim=0)
    scale = grid.scale.reshape(-1).numpy()
    zero = np.zeros(6, np.int8)
    (codes,) = _run("QuantizeLinear", {"axis": 0}, x=w.numpy(), s=scale, z=zero)
    assert np.array_equal((grid.codes(w) - 128).numpy().astype(np.int8), codes)
    (values,) = _run("DequantizeLinear", {"axis": 0}, x=codes, s=scale, z=zero)
    assert np.array_equal(grid(w).numpy(), values)


def test_dynamic_activations_equal_onnx_dynamic_quantize_linear() -> None:
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(2)) + 0.7
    codes, scale, zero = _run("DynamicQuantizeLinear", {}, x=x.numpy())
    (values,) = _run("DequantizeLinear", {}, x=codes, s=np.asarray(scale, np.float32), z=np.asarray(zero, np.uint8))
    found = DynamicQuantizer(8)(x).numpy()
    # Scale and zero point are found in another order of operations: equal up to their last bits.
    np.testing.assert_allclose(found, values, atol=float(scale) * 1e-4 + float(scale) * (found != values).any() * 1.01)
    assert (np.abs(found - values) < float(scale) * 1e-3).mean() > 0.99


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_torch_fake_quantize_with_any_scale_differs_at_ties_only(bits: int) -> None:
    x = weight(3)
    grid = fit_grid(x, bits, clip="mse")
    scale, zero = float(grid.scale), int(grid.zero_point)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
    apart = grid(x) != theirs
    distance = (x / scale - (x / scale).floor() - 0.5).abs()
    assert bool((distance[apart] < 1e-4).all())
