"""Predictions of a model on a data split, and their quality."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import Direction, KMRError, NonFiniteReading, Quality, Reading, isolated_rng
from kmr.data import Split, forward

IGNORED = -100
"""The target that marks an ignored entry, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """A model's outputs over a split and the targets, in the split's order, on the CPU."""

    outputs: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class Predictions:
    """A view of a model: its outputs over one split. Meters with the same object share one pass.

    Args:
        split: the split to predict.
    """

    split: Split
    _live: ClassVar["WeakValueDictionary[int, Predictions]"] = WeakValueDictionary()

    @classmethod
    def of(cls, source: "Split | Predictions") -> "Predictions":
        """Return the predictions over a split: the same object for the same split while a reference to it exists."""
        if isinstance(source, Predictions):
            return source
        if not isinstance(source, Split):
            raise KMRError(f"a meter reads a Split or Predictions, not {type(source).__name__}")
        # Predictions hold their split, so that its id stays unique while the entry lives.
        found = cls._live.get(id(source))
        if found is None:
            found = cls._live[id(source)] = cls(source)
        return found

    def __call__(self, model: nn.Module) -> Outputs:
        """Run the model over the split, in its current mode; its buffers do not change."""
        with torch.no_grad(), _kept_buffers(model):
            pairs = [(forward(model, inputs).cpu(), targets.cpu()) for inputs, targets in self.split.batches()]
        outputs, targets = zip(*pairs, strict=True)
        if len({tensor.shape[1:] for tensor in outputs}) > 1 or len({tensor.shape[1:] for tensor in targets}) > 1:
            raise KMRError("a split's batches differ in the shape of outputs or targets: pad the samples to one length")
        return Outputs(torch.cat(outputs), torch.cat(targets))


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers after forward passes that change or replace them."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            module._buffers[name] = buffer.copy_(value)


def predict(model: nn.Module, data: Split | Predictions) -> Outputs:
    """Run a model over a split in evaluation mode, then restore its modes."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with isolated_rng(0):
            return Predictions.of(data)(model)
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True, kw_only=True)
class _PredictionQuality(Quality):
    """A quality of the predictions on one split."""

    data: Split | Predictions = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Predictions.of(self.data))

    @property
    def view(self) -> Predictions:
        """The predictions on the split, shared with its other meters."""
        return Predictions.of(self.data)


@dataclass(frozen=True, kw_only=True)
class Accuracy(_PredictionQuality):
    """The share of predictions whose target is among the `top_k` largest logits.

    Unit: fraction. Range: [0, 1]. Direction: maximize.

    Logits have shape (n, classes) or (n, classes, …), integer targets (n) or (n, …); targets of −100 are ignored. The
    standard error is √(p(1−p)/n); if a sample has several predictions, it assumes independent samples.

    Args:
        data: the split, or a view of it.
        top_k: the number of largest logits that count.
    """

    top_k: int = 1
    name: str = "accuracy"
    unit: str = field(init=False, default="fraction")

    def read(self, seen: Outputs) -> Reading:
        targets = check_classes(seen)
        classes = seen.outputs.shape[1]
        if not 1 <= self.top_k <= classes:
            raise KMRError(f"top_k must be between 1 and the number of classes ({classes}), not {self.top_k}")
        top = seen.outputs.topk(self.top_k, dim=1).indices
        hits = (top == targets.unsqueeze(1)).any(dim=1)
        return share_of(hits.double(), targets != IGNORED)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(_PredictionQuality):
    """The mean cross-entropy, for the same logits and targets as `Accuracy`, with its standard error.

    Unit: nat. Range: [0, ∞). Direction: minimize. Source: Good 1952, the logarithmic score.
    """

    name: str = "cross_entropy"
    unit: str = field(init=False, default="nat")
    direction: Direction = field(init=False, default="minimize")

    def read(self, seen: Outputs) -> Reading:
        targets = check_classes(seen)
        losses = F.cross_entropy(seen.outputs.double(), targets, reduction="none", ignore_index=IGNORED)
        mean = share_of(losses, targets != IGNORED)
        samples = len(targets)
        if samples < 2 or mean.stderr is None:
            return Reading(mean.value)
        return Reading(mean.value, mean.stderr * math.sqrt(samples / (samples - 1)))


@dataclass(frozen=True, kw_only=True)
class Agreement(_PredictionQuality):
    """The share of predictions with the same class as the original model's, whatever the target.

    Unit: fraction. Range: [0, 1]. Direction: maximize.

    Args:
        data: the split, or a view of it.
        original: the original model, which runs once, at construction; or its outputs on this split.
    """

    original: Outputs | nn.Module = field(repr=False, compare=False)
    name: str = "agreement"
    unit: str = field(init=False, default="fraction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.original, nn.Module):
            object.__setattr__(self, "original", predict(self.original, self.data))

    def read(self, seen: Outputs) -> Reading:
        assert isinstance(self.original, Outputs)
        mine, original = seen.outputs, self.original.outputs
        if mine.shape != original.shape:
            raise KMRError(f"outputs have shape {tuple(mine.shape)}, the original's {tuple(original.shape)}")
        check_logits(mine)
        same = mine.argmax(dim=1) == original.argmax(dim=1)
        return share_of(same.double(), torch.ones_like(same))


def check_logits(outputs: Tensor) -> None:
    """Raise KMRError unless the outputs are logits (n, classes, …), and NonFiniteReading if they contain NaN."""
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        raise KMRError(f"logits must have shape (n, classes, …) with at least 2 classes, not {tuple(outputs.shape)}")
    if bool(outputs.isnan().any()):
        raise NonFiniteReading("the model has diverged: its outputs contain NaN")


def check_classes(seen: Outputs) -> Tensor:
    """Return the targets as integers; raise KMRError if they do not fit the logits."""
    outputs, targets = seen.outputs, seen.targets
    check_logits(outputs)
    if targets.is_floating_point() or targets.shape != (outputs.shape[0], *outputs.shape[2:]):
        raise KMRError(
            f"targets must be class numbers of shape {(outputs.shape[0], *outputs.shape[2:])}, not {targets.dtype} of "
            f"shape {tuple(targets.shape)}"
        )
    targets = targets.long()
    counted = targets[targets != IGNORED]
    if counted.numel() == 0:
        raise KMRError("all targets of the split are -100, which is ignored: provide class numbers")
    if int(counted.min()) < 0 or int(counted.max()) >= outputs.shape[1]:
        raise KMRError(
            f"targets lie in {int(counted.min())} to {int(counted.max())}; the model has {outputs.shape[1]} classes"
        )
    return targets


def share_of(scores: Tensor, counted: Tensor) -> Reading:
    """Return the mean score of the counted entries; its standard error assumes independent samples, not entries."""
    counted = counted.reshape(len(counted), -1).double()
    scores = scores.reshape(counted.shape) * counted
    total = counted.sum()
    mean = scores.sum() / total
    deviations = scores.sum(dim=1) - mean * counted.sum(dim=1)
    return Reading(float(mean), float(deviations.square().sum().sqrt() / total))
