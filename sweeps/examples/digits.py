"""Handwritten digits: the 8×8 UCI images in scikit-learn, and a small CNN for them."""

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn


def small_cnn(width: int = 24, classes: int = 10) -> nn.Module:
    """Build a CNN of three convolutions and two linear layers for images of shape (n, 1, 8, 8)."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        OrderedDict(
            stage1=nn.Sequential(*block(1, width)),
            stage2=nn.Sequential(*block(width, 2 * width), nn.MaxPool2d(2)),
            stage3=nn.Sequential(*block(2 * width, 2 * width), nn.MaxPool2d(2)),
            flatten=nn.Flatten(),
            hidden=nn.Linear(2 * width * 4, 4 * width),
            relu=nn.ReLU(),
            classifier=nn.Linear(4 * width, classes),
        )
    )


def digits(seed: int = 0, validation: int = 400, test: int = 400) -> dict[str, tuple[Tensor, Tensor]]:
    """Load the 1,797 digits as train, validation and test pairs, shuffled by the seed; pixels in [−1, 1]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    inputs = torch.tensor(images[order] / 8.0 - 1.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.tensor(labels[order], dtype=torch.long)
    cut = {
        "test": slice(0, test),
        "validation": slice(test, test + validation),
        "train": slice(test + validation, None),
    }
    return {name: (inputs[rows], targets[rows]) for name, rows in cut.items()}
