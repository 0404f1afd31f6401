"""Networks with structure outside their layers: fixed views, splits, gates, ties, functions, several inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp() -> nn.Module:
    """Build three linear layers."""
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3))


class ResidualMLP(nn.Module):
    """Residual blocks of linear layers with layer normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(12, 16), nn.Linear(16, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(x)  # type: ignore[no-any-return]


class HardView(nn.Module):
    """A network with one hard-coded width in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.more = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.hidden, self.head = nn.Linear(12 * 16, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.more(F.relu(self.conv(x)))), 2)
        return self.head(F.relu(self.hidden(x.view(-1, 12 * 16))))  # type: ignore[no-any-return]


class OnlyHardViews(nn.Module):
    """A network whose widths are all hard-coded, so that nothing can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(8, 8), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x)).view(-1, 8)
        return self.head(F.relu(self.second(x)).view(-1, 16))  # type: ignore[no-any-return]


class Split(nn.Module):
    """A network that splits a layer's channels into two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.chunk(F.relu(self.stem(x)), 2, dim=1)
        return self.head(torch.cat([F.relu(self.left(left)), F.relu(self.right(right))], 1).mean((2, 3)))  # type: ignore[no-any-return]


class GatedUnit(nn.Module):
    """A gated linear unit: half of the channels gates the other half (GLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 40), nn.Linear(20, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.head(F.relu(self.down(value * torch.sigmoid(gate))))  # type: ignore[no-any-return]


class SeparateGate(nn.Module):
    """A product of two layers, which can only shrink together (SwiGLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.gate = nn.Linear(12, 16), nn.Linear(16, 24), nn.Linear(16, 24)
        self.down, self.head = nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.down(F.silu(self.gate(x)) * self.up(x)))  # type: ignore[no-any-return]


class Functional(nn.Module):
    """A network that uses parameters in functions, without a layer around them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(12, 8, 3, 3) * 0.1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.hidden, self.head = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)) * self.scale
        x = F.relu(F.conv2d(x, self.kernel, padding=1)).mean((2, 3))
        return self.head(F.relu(self.hidden(x)))  # type: ignore[no-any-return]


class Reshapes(nn.Module):
    """A network that reshapes and permutes with sizes read from its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.point, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        batch, channels = x.shape[:2]
        tokens = x.reshape(batch, channels, -1).permute(0, 2, 1)
        return self.head(F.relu(self.point(tokens)).mean(1))  # type: ignore[no-any-return]


class TiedAutoencoder(nn.Module):
    """An autoencoder whose decoder is the transposed encoder: one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.inner, self.back = nn.Linear(12, 16), nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.inner(F.relu(self.encoder(x))))
        return F.linear(F.relu(self.back(code)), self.encoder.weight.t())


class SharedLayer(nn.Module):
    """A network that calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.shared(F.relu(self.shared(x)))))  # type: ignore[no-any-return]


class TwoStreams(nn.Module):
    """A network with two inputs and a dictionary of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(6, 10)
        self.joint = nn.Linear(18, 16)
        self.label, self.value = nn.Linear(16, 5), nn.Linear(16, 1)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        features = torch.cat([F.relu(self.image(image)).mean((2, 3)), torch.tanh(self.vector(vector))], 1)
        joint = F.relu(self.joint(features))
        return {"logits": self.label(joint), "value": self.value(joint)}


class ChannelShuffle(nn.Module):
    """Grouped convolutions with a channel shuffle between them (ShuffleNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.grouped, self.second = nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.Conv2d(16, 16, 1, groups=2)
        self.last, self.head = nn.Conv2d(16, 20, 1), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.first(x))))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.last(F.relu(self.second(x)))).mean((2, 3)))  # type: ignore[no-any-return]


class Siamese(nn.Module):
    """A Siamese network: one encoder for two inputs, and a head on their difference."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16))
        self.head = nn.Linear(16, 1)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.head((self.encoder(one) - self.encoder(other)).abs())  # type: ignore[no-any-return]


def _vectors() -> Tensor:
    return torch.randn(4, 12)


def _images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


BUILDERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "mlp": (mlp, _vectors),
    "residual mlp": (ResidualMLP, _vectors),
    "hard-coded view": (HardView, _images),
    "only hard-coded views": (OnlyHardViews, _vectors),
    "split": (Split, _images),
    "gated linear unit": (GatedUnit, _vectors),
    "separate gate": (SeparateGate, _vectors),
    "functional ops": (Functional, _images),
    "reshape by tensor sizes": (Reshapes, _images),
    "tied autoencoder": (TiedAutoencoder, _vectors),
    "shared layer": (SharedLayer, _vectors),
    "two inputs, two outputs": (
        TwoStreams, lambda: {"image": torch.randn(2, 3, 8, 8), "vector": torch.randn(2, 6)}
    ),
    "channel shuffle": (ChannelShuffle, _images),
    "siamese": (Siamese, lambda: (torch.randn(4, 12), torch.randn(4, 12))),
}  # fmt: skip
