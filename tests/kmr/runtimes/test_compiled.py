import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.runtimes import Eager, Inductor, OpenVino
from kmr.runtimes.onnxruntime import OnnxRuntime


def ready(runtime):
    if (why := runtime.probe()) is not None:
        pytest.skip(f"{runtime.name} is not available: {why}")
    return runtime


@pytest.mark.slow
def test_inductor_computes_what_the_model_does():
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    session = ready(Inductor()).prepare(model, x[:1])
    torch.testing.assert_close(session(x[:2]), Eager().prepare(model, x)(x[:2]))
    assert session.artifact is None


def test_openvino_reads_the_onnx_graph(net, images):
    session = ready(OpenVino(graph=OnnxRuntime(precision="fp32"))).prepare(net, images[:1])
    torch.testing.assert_close(session(images), Eager().prepare(net, images)(images), atol=1e-4, rtol=1e-4)


def test_settings_that_do_not_exist_are_refused(net, images):
    with pytest.raises(KMRError, match="not 'int4'"):
        Inductor(precision="int4")
    runtime = ready(Inductor(precision="int8"))
    with pytest.raises(KMRError, match="calibration data"):
        runtime.prepare(net, images)
