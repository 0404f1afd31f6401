"""MNIST in the Hugging Face parquet layout, and the two networks of the compression benchmark."""

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from torch import Tensor, nn

from kmr.core import KMRError

MEAN, STD = 0.1307, 0.3081


def lenet_300_100(classes: int = 10) -> nn.Module:
    """Build the fully connected network of LeCun et al. (1998): 266,610 parameters, for images (n, 1, 28, 28)."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )


def lenet5(classes: int = 10) -> nn.Module:
    """Build the Caffe variant of LeNet-5, which published figures use: 431,080 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )


def mnist(
    path: str, train: int = 55_000, validation: int = 5_000, test: int = 10_000, seed: int = 0
) -> dict[str, tuple[Tensor, Tensor]]:
    """Read MNIST; the validation images are split off the training images by the seed.

    Args:
        path: folder with `train.parquet` and `test.parquet`, or the shards `train-*.parquet` and `test-*.parquet` of
            the hub's copy (ylecun/mnist); each row has an `image` struct with encoded `bytes`, and a `label`.
        train: training images to use, at most 55,000 with the default validation size.
        validation: images to choose by.
        test: held-out images to report, at most 10,000.
        seed: the seed of the split.

    Raises:
        KMRError: no such folder or files, or fewer images than asked for.
    """
    images, labels = _read(Path(path).expanduser(), "train")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    if train + validation > len(order):
        raise KMRError(f"{path} has {len(order)} training images, fewer than train={train} + validation={validation}")
    kept, aside = order[validation : validation + train], order[:validation]
    test_images, test_labels = _read(Path(path).expanduser(), "test")
    return {
        "train": (images[kept], labels[kept]),
        "validation": (images[aside], labels[aside]),
        "test": (test_images[:test], test_labels[:test]),
    }


def _read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    from PIL import Image

    files = sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")])
    if not files:
        raise KMRError(
            f"no MNIST at {folder}: it needs {split}.parquet or {split}-*.parquet there; download the parquet files of "
            "the hub data set ylecun/mnist and name the folder above it in KMR_DATA (or set data.path)"
        )
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L")) for row in rows])
    inputs = torch.from_numpy(pixels).unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)
    return inputs, torch.tensor([row["label"] for row in rows], dtype=torch.long)
