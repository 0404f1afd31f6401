import numpy as np
import pytest
import torch
from int8 import computed
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx
from onnx import numpy_helper

from kmr.instantiations.quantization import fit_grid
from kmr.representation.weights import WeightState, write_weight
from kmr.runtimes import Eager, OnnxRuntime
from kmr.runtimes.onnx_qdq import on_grids


class Rounds(nn.Module):
    """An activation quantizer: scale · (clamp(round(x / scale) + zero_point, 0, 2^bits − 1) − zero_point)."""

    def __init__(self, scale, zero_point, bits):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(float(zero_point)))
        self.bits = bits

    def forward(self, x):
        codes = torch.clamp(torch.round(x / self.scale) + self.zero_point, 0, 2**self.bits - 1)
        return self.scale * (codes - self.zero_point)


class Layer(nn.Linear):
    def __init__(self, inputs, outputs, before, after=None):
        super().__init__(inputs, outputs)
        self.input_quantizer, self.output_quantizer = before, after

    def forward(self, x):
        y = super().forward(self.input_quantizer(x))
        return y if self.output_quantizer is None else self.output_quantizer(y)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = nn.Sequential(
        Layer(6, 5, Rounds(0.02, 128, 8), Rounds(0.03, 100, 8)), nn.ReLU(), Layer(5, 4, Rounds(0.1, 0, 4)),
        nn.Linear(4, 2),
    )  # fmt: skip
    for index, scheme, keep in ((0, "symmetric", torch.rand(5, 6) < 0.7), (2, "affine", None)):
        weight = made[index].weight.detach()
        write_weight(made[index], WeightState(weight, fit_grid(weight, 8, scheme=scheme, dim=0), keep))
    return made.eval()


def test_a_models_own_grids_are_what_the_graph_computes_with(model):
    x = torch.randn(50, 6)
    assert on_grids(model)
    assert not on_grids(nn.Sequential(nn.Linear(2, 2)))
    assert OnnxRuntime().precision_of(model) == "int8_own"
    session = OnnxRuntime().prepare(model, x[:1])
    with torch.no_grad():
        simulated = model(x)
    # Kernels that sum whole numbers may round a value at the middle of two codes the other way: a step of one input.
    found = computed(session, x)
    assert float((found - simulated).abs().max()) < 0.05
    assert float(((found - simulated).abs() < 1e-5).float().mean()) > 0.9
    graph = onnx.load_from_string(session.artifact).graph
    stored = [numpy_helper.to_array(initializer) for initializer in graph.initializer]
    assert any(a.dtype == np.int8 and sorted(a.shape) == [5, 6] for a in stored), "symmetric"
    assert any(a.dtype == np.uint8 and sorted(a.shape) == [4, 5] for a in stored), "affine"
    grid = model[0].parametrizations.weight[0]
    codes = (grid.codes(model[0].weight) - 128).detach().numpy()
    assert any(a.dtype == np.int8 and (np.array_equal(a, codes) or np.array_equal(a, codes.T)) for a in stored)
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 3
    assert any(a.dtype == np.float32 and sorted(a.shape) == [2, 4] for a in stored), "what is on no grid stays"


def test_float32_of_such_a_model_is_its_simulation(model):
    x = torch.randn(9, 6)
    session = OnnxRuntime(precision="fp32").prepare(model, x)
    exact = Eager().prepare(model, x)(x)
    assert float(((session(x) - exact).abs() < 1e-5).float().mean()) > 0.9
