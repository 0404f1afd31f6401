"""What benchmarks on ResNet-20 and CIFAR-10 share: the base model, its data, and accuracy beside the base's."""

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
from kmr.meters import Predictions, WeightBytes
from kmr.meters.prediction import predict
from sweeps.examples.cifar import cifar10, crop_and_flip, resnet20

THREADS = 1


@dataclass(frozen=True)
class Point:
    """A model's stored bytes, its accuracy on held-out images, and how far that is from the base's on the same images.

    Accuracies are in percent; standard errors are binomial, that of the difference from the pairs of predictions.
    """

    bytes: int
    accuracy: float
    stderr: float
    difference: float
    difference_stderr: float


@dataclass(frozen=True)
class Setting:
    """The base model and the splits; `measure` reads a model against the base."""

    base: nn.Module
    train: Split
    validation: Split
    test: Split
    base_right: Tensor

    def measure(self, model: nn.Module) -> Point:
        """Read bytes and test accuracy."""
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
        """Return a short recovery with the augmentation of the base's training."""
        return FineTune(
            data=self.train,
            steps=steps,
            augment=crop_and_flip,
            optimizer=lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4),
        )


def correct(model: nn.Module, split: Split) -> Tensor:
    """Tell, 1.0 or 0.0 for each sample, whether the largest logit is the target's."""
    seen = predict(model, Predictions(split))
    return (seen.outputs.argmax(1) == seen.targets).double()


def setting(train: int, validation: int, test: int) -> Setting:
    """Load the adapted base and the data below KMR_DATA, on one thread."""
    torch.set_num_threads(THREADS)
    folder = os.environ.get("KMR_DATA")
    if folder is None:
        sys.exit("KMR_DATA must name the folder with cifar10/ and models/resnet20-cifar10-jpeg.safetensors")
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
def told(what: str) -> Iterator[None]:
    """Say on standard error how long a piece of work took."""
    start = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
