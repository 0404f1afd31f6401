"""Models in other dtypes and on other devices in ONNX Runtime, which computes in float32 and float16 on the CPU."""

import pytest
import torch
from contracts import IMAGES, cnn, rule, turned
from elsewhere import elsewhere

from kmr.data import forward
from kmr.runtimes import OnnxRuntime

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", [None, "static"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_any_dtype_runs(dtype: torch.dtype, name: str | None) -> None:
    model = cnn().to(dtype)
    model = model if name is None else turned(rule(name), model, 8)
    session = OnnxRuntime().prepare(model, IMAGES[:2])
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    with torch.no_grad():
        expected = forward(model, IMAGES).float()
    torch.testing.assert_close(session(IMAGES).float(), expected, rtol=0.05, atol=0.01)


def test_a_model_on_another_device_runs_on_the_cpu() -> None:
    expected = OnnxRuntime().prepare(turned(rule("static"), cnn(), 8), IMAGES[:2])(IMAGES)
    with elsewhere() as device:
        session = OnnxRuntime().prepare(turned(rule("static"), cnn().to(device), 8), IMAGES[:2])
        assert session.device.type == "cpu"
        torch.testing.assert_close(session(IMAGES), expected, rtol=1e-4, atol=1e-5)
