"""Small models of every kind the rules must meet, each with a batch as `kmr.data.forward` takes it."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.set_num_threads(1)


class Case(NamedTuple):
    model: nn.Module
    inputs: Any


class PadShortcut(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.pad = planes // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class Block(nn.Module):
    def __init__(self, width: int, planes: int) -> None:
        super().__init__()
        stride = 1 if width == planes else 2
        self.conv1 = nn.Conv2d(width, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Identity() if stride == 1 else PadShortcut(planes)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class OptionA(nn.Module):
    """A CIFAR residual network whose widening shortcuts pad with zeros (He et al. 2016, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = Block(8, 8)
        self.layer2 = Block(8, 16)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return self.linear(F.avg_pool2d(x, x.size(3)).view(x.size(0), -1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.back = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.back(F.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


class ViewMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 24)
        self.fixed = nn.Linear(24, 32)
        self.out = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fixed(F.relu(self.first(x)))).view(-1, 32))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grow1 = nn.Conv2d(8, 6, 3, padding=1)
        self.grow2 = nn.Conv2d(14, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([x, F.relu(self.grow1(x))], 1)
        x = torch.cat([x, F.relu(self.grow2(x))], 1)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.position = nn.Parameter(torch.randn(1, 6, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens) + self.position).mean(1))


class Attention(nn.Module):
    """Attention by hand: its heads come from a view that fits any width, and all weak channels lie in one head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        for part in self.qkv:
            part.weight.data[:6] *= 0.2
        self.hidden = nn.Linear(12, 16)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).view(x.size(0), x.size(1), 2, -1).transpose(1, 2) for part in self.qkv)
        mixed = (query @ key.transpose(2, 3) / 2).softmax(3) @ value
        return self.out(F.relu(self.hidden(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)))).mean(1)


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.recurrent = nn.LSTM(8, 10, batch_first=True)
        self.hidden = nn.Linear(10, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.recurrent(self.embed(tokens))[0][:, -1])))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 10)
        self.right = nn.Linear(4, 10)
        self.head = nn.Linear(20, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(self.left(first)), torch.tanh(self.right(second))], 1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.hidden = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.back(F.relu(self.hidden(self.embed(tokens).mean(1)))))


def _vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 4 * 4, 16),
        nn.ReLU(),
        nn.Linear(16, 5),
    )


def _groups() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, groups=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def _transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 2, stride=2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 12, 3, padding=1, groups=2),
        nn.Conv2d(12, 3, 3, padding=1),
    )


def _images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def _tokens() -> Tensor:
    return torch.randint(0, 20, (3, 6))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "vgg": (_vgg, _images),
    "option_a": (OptionA, _images),
    "residual": (Residual, _images),
    "view_mlp": (ViewMLP, lambda: torch.randn(3, 16)),
    "groups": (_groups, _images),
    "concat": (Concat, _images),
    "transformer": (Transformer, _tokens),
    "attention": (Attention, lambda: torch.randn(2, 4, 12)),
    "lstm": (LSTM, _tokens),
    "transposed": (_transposed, _images),
    "tuple_inputs": (TwoInputs, lambda: (torch.randn(3, 6), torch.randn(3, 4))),
    "dict_inputs": (TwoInputs, lambda: {"second": torch.randn(3, 4), "first": torch.randn(3, 6)}),
    "tied": (Tied, _tokens),
}


def make_case(name: str) -> Case:
    """Build a model with a seed, with normalisation statistics that are not their neutral start."""
    build, inputs = MODELS[name]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(7)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        return Case(model.eval(), inputs())


@pytest.fixture
def case() -> Callable[[str], Case]:
    return make_case


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "model_name" in metafunc.fixturenames:
        metafunc.parametrize("model_name", list(MODELS))
