import pytest
import torch
from torch import nn

from kmr.core import KMRError, NotApplicable
from kmr.recovery import recalibrate, synthetic_inputs


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    ).eval()
    return recalibrate(model, [3 * torch.rand(64, 3, 8, 8) - 2])


def distance(model: nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad():
        inside = model[0](inputs)
    norm = model[1]
    return float(((inside.mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()).abs().mean())


def test_the_statistics_of_made_inputs_come_near_those_the_model_remembers() -> None:
    model = trained()
    noise = synthetic_inputs(model, torch.zeros(1, 3, 8, 8), 32, steps=0)
    made = synthetic_inputs(model, torch.zeros(1, 3, 8, 8), 32, steps=40)
    assert made.shape == (32, 3, 8, 8)
    assert distance(model, made) < 0.2 * distance(model, noise)
    assert torch.equal(made, synthetic_inputs(model, torch.zeros(1, 3, 8, 8), 32, steps=40))
    assert not made.requires_grad


def test_what_has_no_statistics_or_other_inputs_is_refused() -> None:
    with pytest.raises(NotApplicable, match="has no BatchNorm statistics"):
        synthetic_inputs(nn.Linear(3, 3), torch.zeros(1, 3))
    with pytest.raises(NotApplicable, match="real numbers"):
        synthetic_inputs(trained(), torch.zeros(1, 3).long())
    with pytest.raises(KMRError, match="count >= 2"):
        synthetic_inputs(trained(), torch.zeros(1, 3, 8, 8), 1)
