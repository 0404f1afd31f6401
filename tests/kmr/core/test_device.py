import pytest
import torch
from torch import nn

from kmr.core import KMRError, choose_device, device_of
from kmr.core import device as module


def test_the_device_of_a_model_is_that_of_its_first_tensor():
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")) == torch.device("meta"), "buffers alone"
    assert device_of(nn.ReLU()) == torch.device("cpu")


@pytest.mark.parametrize(
    ("here", "name", "chosen"),
    [
        ([], "auto", "cpu"),
        ([], "cpu", "cpu"),
        (["cuda:0", "cuda:1"], "auto", "cuda:0"),
        (["cuda:0", "cuda:1"], "cuda", "cuda"),
        (["cuda:0", "cuda:1"], "cuda:1", "cuda:1"),
        (["cuda:0"], "cpu", "cpu"),
        (["mps"], "auto", "mps"),
        (["mps"], "mps", "mps"),
    ],
)
def test_a_name_chooses_a_device(monkeypatch: pytest.MonkeyPatch, here: list[str], name: str, chosen: str) -> None:
    monkeypatch.setattr(module, "accelerators", lambda: here)
    assert choose_device(name) == torch.device(chosen)
    assert choose_device(torch.device("meta")) == torch.device("meta"), "a device stays as it is"


@pytest.mark.parametrize(
    ("here", "name", "choices"),
    [
        ([], "cuda", "auto or cpu"),
        ([], "gpu", "auto or cpu"),
        (["cuda:0"], "cuda:1", "auto, cpu or cuda:0"),
        (["cuda:0"], "mps", "auto, cpu or cuda:0"),
        (["mps"], "cuda", "auto, cpu or mps"),
    ],
)
def test_a_device_that_is_not_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, here: list[str], name: str, choices: str
) -> None:
    monkeypatch.setattr(module, "accelerators", lambda: here)
    with pytest.raises(KMRError, match=f"device is '{name}', which torch cannot use here: choose {choices}"):
        choose_device(name)


def test_accelerators_have_numbers_except_apples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for found, names in ((None, []), (torch.device("cuda"), ["cuda:0", "cuda:1"]), (torch.device("mps"), ["mps"])):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available, found=found: found)
        assert module.accelerators() == names
