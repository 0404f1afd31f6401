"""The base models and the data of the files in `tests/compatibility`, which an earlier version wrote.

The files name these functions, so that neither their names nor what they build may change. They need torch alone.
"""

import torch
from torch import Tensor, nn


class Shortcut(nn.Module):
    """A convolution with a shortcut around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


class Patches(nn.Module):
    """Four patches of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(x), 4, 16)


class Mean(nn.Module):
    """The mean over patches."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Reshape(nn.Module):
    """The same numbers in another shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)


class Classifier(nn.Module):
    """Two layers, which refuse to run where the first has no more than five weights that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 48), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.first.weight.unique()) <= 5:
            raise RuntimeError("five values are too few for the first layer")
        return self.second(torch.relu(self.first(x)))


def cnn() -> nn.Module:
    """Build convolutions with shortcuts, and linear layers of one shape behind them."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(Shortcut(4), Shortcut(4)),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip


def transformer() -> nn.Module:
    """Build a transformer over the patches of an image."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    return nn.Sequential(Patches(), nn.Linear(16, 8), layer, Mean(), nn.Linear(8, 4))


def student(width: int = 12) -> nn.Module:
    """Build two linear layers of any width between."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4))


def every_layer() -> nn.Module:
    """Build a model that has each convolution of torch, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2), nn.GELU(), nn.ConvTranspose2d(2, 2, 2), Reshape(2, 16),
        nn.Conv1d(2, 2, 3, padding=1), nn.ConvTranspose1d(2, 2, 1), Reshape(2, 2, 2, 4),
        nn.Conv3d(2, 2, 1), nn.ConvTranspose3d(2, 1, 1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def classifier() -> nn.Module:
    """Build the model of the study."""
    return Classifier()


def clusters(samples: int = 240) -> dict[str, tuple[Tensor, Tensor]]:
    """Make the data of the study by whole numbers, so that they are the same everywhere."""
    place = torch.arange(samples)
    labels = place * 7 % 3
    centres = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, -1], [0, 0, 1, 0]])
    noise = (place[:, None] * torch.tensor([37, 53, 71, 97]) % 101 - 50) / 40
    inputs = centres[labels] + noise
    third = samples // 3
    return {
        name: (inputs[start : start + third], labels[start : start + third])
        for name, start in (("train", 0), ("validation", third), ("test", 2 * third))
    }
