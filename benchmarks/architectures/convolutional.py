"""Convolutional networks of common architectures."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _block(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def vgg() -> nn.Module:
    """Build plain convolutions and a classifier of two layers after flattening."""
    return nn.Sequential(
        *_block(3, 8), nn.MaxPool2d(2), *_block(8, 16), *_block(16, 16), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 4, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 5),
    )  # fmt: skip


class Basic(nn.Module):
    """A basic residual block; its shortcut is a convolution where the width changes (option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Pad(nn.Module):
    """The parameterless shortcut that pads channels with zeros (option A)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))


class ResNet(nn.Module):
    """A residual network of two stages."""

    def __init__(self, option: str) -> None:
        super().__init__()
        self.stem = _block(3, 8)
        self.stage1 = nn.Sequential(Basic(8, 8), Basic(8, 8))
        self.stage2 = nn.Sequential(Basic(8, 16, 2), Basic(16, 16))
        if option == "A":
            self.stage2[0].shortcut = Pad(4)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


class PreActivation(nn.Module):
    """A residual network whose blocks normalise first (He et al. 2016, identity mappings)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.last, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + conv(F.relu(norm(x)))
        return self.head(F.relu(self.last(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions around a shortcut; `groups` makes it a ResNeXt block."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *_block1(inputs, width), *_block(width, width, stride, groups), nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x) + self.shortcut(x))


def _block1(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def bottleneck_resnet(layers: tuple[int, ...], widths: tuple[int, ...], classes: int, groups: int = 1) -> nn.Module:
    """Build a residual network of bottlenecks; (3, 4, 6, 3) of (64, 128, 256, 512) is ResNet-50, 25.6 M parameters."""
    stem = nn.Sequential(
        nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    stages: list[nn.Module] = []
    inputs = widths[0]
    for stage, (count, width) in enumerate(zip(layers, widths, strict=True)):
        for block in range(count):
            stride = 2 if stage and not block else 1
            stages.append(Bottleneck(inputs, width, 4 * width, stride, groups))
            inputs = 4 * width
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Dense(nn.Module):
    """A network whose layers read the concatenation of all earlier outputs (DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 6 * i), nn.ReLU(), nn.Conv2d(8 + 6 * i, 6, 3, padding=1)) for i in range(3)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(26), nn.ReLU(), nn.Conv2d(26, 12, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.transition(x).mean((2, 3)))  # type: ignore[no-any-return]


class Inception(nn.Module):
    """A network with concatenated branches of different kernel sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 8)
        self.one, self.three, self.pool = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.mix, self.head = _block(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(torch.cat([self.one(x), self.three(x), self.pool(F.max_pool2d(x, 3, 1, 1))], 1))
        return self.head(self.mix(x).mean((2, 3)))  # type: ignore[no-any-return]


def depthwise() -> nn.Module:
    """Build depthwise and pointwise convolutions (MobileNet)."""
    return nn.Sequential(
        *_block(3, 8), *_block(8, 8, 2, groups=8), *_block1(8, 16), *_block(16, 16, groups=16), *_block1(16, 24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    """Gates on channels, computed from the spatial means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """An inverted residual block with squeeze-and-excitation (MobileNet-v3, EfficientNet)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block1(channels, inner), *_block(inner, inner, groups=inner), SqueezeExcite(inner),
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


def grouped() -> nn.Module:
    """Build grouped convolutions with group normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(24, 5),
    )  # fmt: skip


class UNet(nn.Module):
    """A U-Net with a transposed convolution and one skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.middle = _block(3, 8), _block(8, 16, 2), _block(16, 16)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, stride=2), _block(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.out(self.last(torch.cat([first, self.up(self.middle(self.down(first)))], 1)))  # type: ignore[no-any-return]


def super_resolution() -> nn.Module:
    """Build a network with sub-pixel upsampling, which turns channels into pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


class ConvNeXt(nn.Module):
    """A network of depthwise 7×7 convolutions, layer normalisation and linear expansions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 2, stride=2)
        self.depthwise = nn.ModuleList(nn.Conv2d(12, 12, 7, padding=3, groups=12) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(12) for _ in range(2))
        self.expand = nn.ModuleList(nn.Linear(12, 32) for _ in range(2))
        self.project = nn.ModuleList(nn.Linear(32, 12) for _ in range(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm, expand, project in zip(self.depthwise, self.norm, self.expand, self.project, strict=True):
            y = project(F.gelu(expand(norm(conv(x).permute(0, 2, 3, 1)))))
            x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def conv1d() -> nn.Module:
    """Build one-dimensional convolutions over a signal."""
    return nn.Sequential(
        nn.Conv1d(2, 12, 5, padding=2), nn.BatchNorm1d(12), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(12, 16, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def conv3d() -> nn.Module:
    """Build three-dimensional convolutions over a volume."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def _inverted() -> nn.Module:
    return nn.Sequential(
        *_block(3, 8), InvertedResidual(8, 24), InvertedResidual(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip


def _images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


BUILDERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "vgg": (vgg, _images),
    "resnet (shortcut B)": (lambda: ResNet("B"), _images),
    "resnet (shortcut A)": (lambda: ResNet("A"), _images),
    "pre-activation resnet": (PreActivation, _images),
    "bottleneck resnet": (lambda: bottleneck_resnet((1, 2), (8, 12), 5), lambda: torch.randn(2, 3, 32, 32)),
    "resnext": (lambda: bottleneck_resnet((1, 2), (8, 16), 5, groups=4), lambda: torch.randn(2, 3, 32, 32)),
    "densenet": (Dense, _images),
    "inception": (Inception, _images),
    "mobilenet (depthwise)": (depthwise, _images),
    "inverted residual, squeeze-excite": (_inverted, _images),
    "grouped, group norm": (grouped, _images),
    "u-net (transposed)": (UNet, _images),
    "pixel shuffle": (super_resolution, _images),
    "convnext": (ConvNeXt, _images),
    "conv1d": (conv1d, lambda: torch.randn(2, 2, 16)),
    "conv3d": (conv3d, lambda: torch.randn(2, 1, 4, 8, 8)),
}
