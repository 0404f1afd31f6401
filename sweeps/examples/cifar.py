"""CIFAR-10 in the Hugging Face parquet layout, and the CIFAR ResNets of He et al. (2016) with option-A shortcuts."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""The normalisation of the published option-A weights (akamaster/pytorch_resnet_cifar10)."""


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides, where a block halves the image."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, c + 2·padding, ⌈h/2⌉, ⌈w/2⌉)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else PadShortcut((outputs - inputs) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h/stride, w/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A CIFAR ResNet of depth 6·blocks + 2, with the published weights' parameter names."""

    def __init__(self, blocks: int, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, 3, 32, 32) to logits (n, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet20() -> nn.Module:
    """Build ResNet-20: 0.27 M parameters, 40.55 M multiply-accumulates on 32×32 images."""
    return CifarResNet(blocks=3)


def resnet56() -> nn.Module:
    """Build ResNet-56: 0.85 M parameters, 125.49 M multiply-accumulates on 32×32 images."""
    return CifarResNet(blocks=9)


def resnet(depth: int = 20, width: int = 16) -> nn.Module:
    """Build a CIFAR ResNet of any depth 6·n + 2, with `width` channels in its first stage (even)."""
    if depth < 8 or (depth - 2) % 6 or width < 2 or width % 2:
        raise KMRError(f"a CIFAR ResNet has depth 8, 14, 20, … and an even width, not {depth} and {width}")
    return CifarResNet((depth - 2) // 6, width=width)


def cifar10(
    path: str, train: int = 45_000, validation: int = 5_000, test: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Read CIFAR-10; the seed chooses the validation images among the training images.

    Args:
        path: folder with `train.parquet` and `test.parquet`, or the shards `train-*.parquet` and `test-*.parquet` of
            the hub's copy; each row has an image struct (`img` or `image`) with encoded `bytes`, and a `label`.
        train: training images to use, at most 45,000 with the default validation size.
        validation: validation images, held out of training for model selection.
        test: test images for reporting, at most 10,000.
        seed: seed of the split.

    Raises:
        KMRError: the folder or the files are missing, or hold fewer images than requested.
    """
    folder = Path(path).expanduser()
    order = np.random.default_rng(seed).permutation(_count(folder, "train"))
    if train + validation > len(order):
        raise KMRError(f"{folder} has {len(order)} training images, fewer than train={train} + validation={validation}")
    return {
        "train": _read(folder, "train", order[validation : validation + train]),
        "validation": _read(folder, "train", order[:validation]),
        "test": _read(folder, "test", np.arange(min(test, _count(folder, "test")))),
        "preprocessing": {"image": "RGB, 32 × 32, values / 255", "mean": MEAN, "std": STD},
    }


def _files(folder: Path, split: str) -> list[Path]:
    files = sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")])
    if not files:
        raise KMRError(
            f"no CIFAR-10 at {folder}: {split}.parquet and {split}-*.parquet are missing; download the parquet files "
            "of the hub data set uoft-cs/cifar10 and name the folder above it in KMR_DATA (or set data.path)"
        )
    return files


def _count(folder: Path, split: str) -> int:
    return sum(parquet.ParquetFile(file).metadata.num_rows for file in _files(folder, split))


def _read(folder: Path, split: str, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> tuple[Tensor, Tensor]:
    from PIL import Image

    images: list[bytes] = []
    labels: list[int] = []
    for file in _files(folder, split):
        table = parquet.read_table(file)
        column = next(name for name in ("img", "image") if name in table.column_names)
        images += [image["bytes"] for image in table[column].to_pylist()]
        labels += table["label"].to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(images[row])).convert("RGB")) for row in rows])
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    inputs = inputs.sub_(torch.tensor(MEAN).view(1, 3, 1, 1)).div_(torch.tensor(STD).view(1, 3, 1, 1))
    return inputs.contiguous(memory_format=torch.channels_last), torch.tensor(
        [labels[row] for row in rows], dtype=torch.long
    )


def crop_and_flip(images: Tensor) -> Tensor:
    """Shift each image by up to 4 pixels (zero padding) and mirror half of them, using torch's global generator."""
    n, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, n))
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns, columns.flip(1))[:, None, None, :]
    batch = torch.arange(n)[:, None, None, None]
    moved = padded[batch, torch.arange(images.shape[1])[None, :, None, None], rows, columns]
    return moved.contiguous(memory_format=torch.channels_last)
