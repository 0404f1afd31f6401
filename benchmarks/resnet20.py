"""Shared setting of the benchmarks with ResNet-20 on CIFAR-10: base model, data, and accuracy against the base."""

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kmr.data import Split
from kmr.finetune import FineTune
from kmr.meters import Accuracy, WeightBytes
from kmr.meters.predictions import statistics_of
from sweeps.examples.cifar import cifar10, crop_and_flip, resnet20

THREADS = 1


@dataclass(frozen=True)
class Point:
    """A model's stored bytes, its accuracy on held-out images, and the difference to the base on the same images.

    Accuracies are in percent. Standard errors are binomial; that of the difference uses paired predictions.
    """

    bytes: int
    accuracy: float
    stderr: float
    difference: float
    difference_stderr: float


@dataclass(frozen=True)
class Setting:
    """The base model and the splits; `measure` compares a model with the base."""

    base: nn.Module
    train: Split
    validation: Split
    test: Split
    base_right: Tensor

    def measure(self, model: nn.Module) -> Point:
        """Measure bytes and test accuracy."""
        right = correct(model, self.test)
        lost = right - self.base_right
        return Point(
            int(WeightBytes()(model).value),
            100 * float(right.mean()),
            100 * math.sqrt(float(right.mean() * (1 - right.mean())) / len(right)),
            100 * float(lost.mean()),
            100 * float(lost.std()) / math.sqrt(len(lost)),
        )

    def finetune(self, steps: int, lr: float = 0.01) -> FineTune:
        """Return a short fine-tuning with the augmentation of the base's training."""
        return FineTune(
            data=self.train,
            steps=steps,
            augment=crop_and_flip,
            optimizer=lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4),
        )


def correct(model: nn.Module, split: Split) -> Tensor:
    """Return 1.0 for each correctly classified sample and 0.0 for the others."""
    return statistics_of(model, [Accuracy(data=split)])["accuracy"].rows[:, 0]


def setting(train: int, validation: int, test: int) -> Setting:
    """Load the base and the data from KMR_DATA, for one thread."""
    torch.set_num_threads(THREADS)
    folder = os.environ.get("KMR_DATA")
    if folder is None:
        sys.exit("KMR_DATA is not set; name the folder with cifar10/ and models/resnet20-cifar10-jpeg.safetensors")
    model = resnet20()
    model.load_state_dict(load_file(Path(folder) / "models" / "resnet20-cifar10-jpeg.safetensors"))
    splits = cifar10(str(Path(folder) / "cifar10"), train=train, validation=5000, test=test)
    held_out = Split(splits["test"], 250)
    return Setting(
        model.eval(),
        Split(splits["train"], 128),
        Split(splits["validation"], 250).subset(validation),
        held_out,
        correct(model, held_out),
    )


@contextmanager
def report_time(what: str) -> Iterator[None]:
    """Print the duration of the block to standard error."""
    start = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
