import numpy as np
import pytest
import torch
from int8 import SATURATES, computed
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx
from onnx import numpy_helper

from kmr.core import KMRError
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters.runtime_check import check
from kmr.runtimes import Eager, OnnxRuntime
from kmr.runtimes.onnx_graph import annotate, annotations, folded, slim, to_onnx


@pytest.fixture(scope="module")
def sessions(net, images, split):
    return {name: OnnxRuntime(precision=name).prepare(net, images[:1], calibration=split) for name in ("fp32", "int8")}


def test_float32_computes_what_the_model_does_at_any_batch_size(sessions, net, images):
    for count in (1, 7, 40):
        with torch.no_grad():
            torch.testing.assert_close(sessions["fp32"](images[:count]), net(images[:count]), atol=1e-5, rtol=1e-5)


def test_int8_is_near_and_holds_its_weights_in_bytes_with_a_scale_for_each_channel(sessions, net, images, split):
    exact = Eager().prepare(net, images[:1])(images)
    found = computed(sessions["int8"], images)
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.05
    graph = onnx.load_from_string(sessions["int8"].artifact)
    stored = [numpy_helper.to_array(initializer) for initializer in graph.graph.initializer]
    assert sorted(a.shape for a in stored if a.dtype == np.int8 and a.size > 6) == [(3, 54), (4, 1, 3, 3), (6, 4, 3, 3)]
    # The second convolution has no normalisation: its scales are max|w| / 127 of each of the 6 filters.
    scales = net[3].weight.detach().abs().amax(dim=(1, 2, 3)).numpy() / 127
    assert any(a.shape == scales.shape and np.allclose(a, scales, rtol=1e-5) for a in stored)
    assert not any(a.dtype == np.float32 and a.ndim > 1 for a in stored)
    assert {a.dtype for a in stored if a.ndim == 0 and a.dtype.kind in "iu"} >= {np.dtype(np.uint8)}
    result = check(Eager().prepare(net, images[:1]), sessions["int8"], split, tolerance=0.1)
    assert result.model == 1.0
    assert result.artifact == result.agreement
    if not SATURATES:
        assert result.agreement >= 0.9
        assert result.passed


def test_the_model_is_not_changed_and_exports_are_equal(net, images, split):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = OnnxRuntime(precision="int8").prepare(net, images[:1], calibration=split).artifact
    second = OnnxRuntime(precision="int8").prepare(net, images[:1], calibration=split).artifact
    assert first == second
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_calibration_is_over_the_samples_asked_for(net, images, split):
    def step(samples):
        made = OnnxRuntime(precision="int8", calibration_samples=samples)
        graph, _ = made.export(net, images[:1], calibration=split)
        names = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
        first = next(node for node in graph.graph.node if "input" in node.input)
        return float(names[first.input[1]])

    for samples in (3, 40):
        low, high = float(images[:samples].min()), float(images[:samples].max())
        assert step(samples) == pytest.approx((high - low) / 255, rel=1e-4)


def test_auto_is_int8_where_most_weights_are_on_grids_of_8_bits_or_fewer(net):
    runtime, rule = OnnxRuntime(), WeightQuantization()
    assert runtime.precision_of(net) == "fp32"
    assert runtime.precision_of(rule(net, "quantize.bits", 4)) == "int8"
    some = WeightQuantization(layers=("0",))
    assert runtime.precision_of(some(net, "quantize.bits@0", 4)) == "fp32"
    assert OnnxRuntime(precision="fp32").precision_of(rule(net, "quantize.bits", 4)) == "fp32"


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.wide, self.out = nn.Linear(32, 64), nn.Linear(64, 3)

    def forward(self, words, weight=None):
        x = self.embedding(words)
        x = x if weight is None else x * weight
        return self.out(torch.relu(self.wide(x)).mean(dim=1))


@pytest.mark.parametrize(("precision", "share"), [("int8_dynamic", 0.45), ("int4", 0.4)])
def test_matrix_products_in_dynamic_int8_and_int4_weights(precision, share):
    torch.manual_seed(0)
    model = Words().eval()
    inputs = {"words": torch.randint(0, 64, (5, 6)), "weight": torch.rand(5, 6, 1)}
    exact = Eager().prepare(model, inputs)(inputs)
    whole = OnnxRuntime(precision="fp32").prepare(model, inputs)
    session = OnnxRuntime(precision=precision).prepare(model, inputs)
    torch.testing.assert_close(whole(inputs), exact, atol=1e-5, rtol=1e-4)
    found, bound = (computed(session, inputs), 0.02) if precision == "int8_dynamic" else (session(inputs), 0.3)
    assert 0 < float((found - exact).norm() / exact.norm()) < bound
    assert len(session.artifact) < share * len(whole.artifact)


def test_a_slim_graph_computes_the_same_and_keeps_its_inputs_and_outputs(net, images):
    graph, _ = to_onnx(net, images[:1])
    thin = slim(graph)
    assert [value.name for value in thin.graph.input] == ["input"]
    assert [value.name for value in thin.graph.output] == ["output"]
    assert thin.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.name or node.doc_string or node.metadata_props for node in thin.graph.node)
    onnx.checker.check_model(thin)
    assert len(thin.SerializeToString()) < len(graph.SerializeToString())
    merged = folded(graph)
    assert "BatchNormalization" not in {node.op_type for node in merged.graph.node}


def test_notes_in_a_graph_are_read_back(net, images):
    graph, _ = to_onnx(net, images[:1])
    assert annotations(annotate(graph, {"knobs": [["prune", 0.5]], "none": None})) == {
        "knobs": [["prune", 0.5]],
        "none": None,
    }
    assert annotations(annotate(graph, {"none": "ä"}))["none"] == "ä"
    assert annotations(annotate(graph, {}))["knobs"] == [["prune", 0.5]]


@pytest.mark.parametrize("wrong", [{"precision": "int9"}, {"calibration_method": "mean"}, {"calibration_samples": 0}])
def test_settings_that_do_not_exist_are_refused(wrong):
    with pytest.raises(KMRError, match=str(next(iter(wrong.values())))):
        OnnxRuntime(**wrong)


def test_static_int8_without_calibration_data_is_refused(net, images):
    with pytest.raises(KMRError, match="calibration data"):
        OnnxRuntime(precision="int8").prepare(net, images[:1])
