import pytest
import torch
from torch import nn

from kmr.core import isolated_rng
from kmr.data import Split

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def net() -> nn.Module:
    with isolated_rng(0):
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(54, 3),
        )  # fmt: skip
        model[1].running_mean.uniform_(-0.2, 0.2)
        model[1].running_var.uniform_(0.5, 2.0)
        return model.eval()


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def split(net: nn.Module, images: torch.Tensor) -> Split:
    """The model's own answers as targets: it is always right."""
    with torch.no_grad():
        return Split((images, net(images).argmax(1)), 16)
