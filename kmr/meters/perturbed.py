"""Qualities on perturbed inputs: corrupted ones, and adversarial ones made against the model that is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, final
from weakref import WeakValueDictionary

import torch
from torch import nn

from kmr.core import Task, isolated_rng
from kmr.data import Split, call
from kmr.meters.perturbations import PGD, Perturbation, Ranges, ranges_of
from kmr.meters.predictions import Predictions
from kmr.meters.wrapped import WrappedQuality
from kmr.tasks import Scores, task_before_call, task_of


@dataclass(frozen=True, eq=False)
class PerturbedPredictions(Predictions):
    """A model's predictions for perturbed inputs.

    Args:
        perturbation: changes the inputs of each batch.
        seed: the seed of its random numbers.
    """

    perturbation: Perturbation | None = None
    seed: int = 0
    _by_settings: ClassVar["WeakValueDictionary[tuple[int, Perturbation, int], PerturbedPredictions]"] = (
        WeakValueDictionary()
    )

    @classmethod
    def through(cls, split: Split, perturbation: Perturbation, seed: int) -> "PerturbedPredictions":
        """Return the predictions for a split's perturbed inputs: the same object for the same settings."""
        key = (id(split), perturbation, seed)
        found = cls._by_settings.get(key)
        if found is None:
            found = cls._by_settings[key] = cls(split, perturbation=perturbation, seed=seed)
        return found

    def references(self, original: nn.Module) -> dict[tuple[int, torch.device], Scores]:
        """Keep no predictions of an original: the inputs depend on the model."""
        return {}

    def returned(self, model: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (perturbed inputs, targets, what the model returns) for each batch."""
        assert self.perturbation is not None
        ranges: Ranges | None = None
        task: Task | None = None
        for number, (inputs, targets) in enumerate(self.split.batches()):
            ranges = ranges or ranges_of(inputs, self.perturbation.bounds)
            if task is None:
                first = self.split.task or task_before_call(targets)
                output = call(model, inputs) if first is None else first.call(model, inputs)
                task = first or task_of(self.split, output, inputs, targets, model)
            if self.split.task is None:
                inputs, targets = task.prepare(inputs, targets)
            with isolated_rng(self.seed + number):
                changed = self.perturbation(model, task, inputs, targets, ranges)
            with torch.no_grad():
                yield changed, targets, task.call(model, changed)


@final
@dataclass(frozen=True, kw_only=True)
class Perturbed(WrappedQuality):
    """A quality on perturbed inputs: robustness to corruption, or to an attack on the compressed model itself.

    Unit, range and direction are the wrapped quality's. Source: of the perturbation.

    Args:
        data: the split, or a view of it.
        original: the original model, for qualities that compare with it.
        quality: makes the quality from `data` (and `original`): a class of `kmr.meters`, or a partial of one.
        perturbation: what changes the inputs, of `kmr.meters.perturbations`.
        seed: the seed of its random numbers, the same for all models.
    """

    perturbation: Perturbation = field(default_factory=PGD)
    seed: int = 0
    name: str = "perturbed_accuracy"

    def through(self, split: Split) -> Predictions:
        return PerturbedPredictions.through(split, self.perturbation, self.seed)
