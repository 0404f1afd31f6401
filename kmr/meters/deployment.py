"""View of a model in a runtime, prepared once for all meters that use it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import nn

from kmr.cache.identity import fingerprint
from kmr.core import KMRError
from kmr.data import Inputs, Split, map_tensors
from kmr.meters.predictions import Predictions
from kmr.runtimes import Runtime, Session
from kmr.runtimes.selected_output import with_selected_output


@dataclass(frozen=True, eq=False)
class Deployment:
    """A view that prepares models for a runtime; consecutive equal models share one session.

    Args:
        runtime: the runtime to run models in.
        example_inputs: a batch as the model takes it.
        calibration: data on which the runtime may measure activation ranges.
        threads: CPU threads.
    """

    runtime: Runtime
    example_inputs: Inputs = field(repr=False)
    calibration: Split | None = field(repr=False)
    threads: int
    _live: ClassVar["WeakValueDictionary[tuple[object, ...], Deployment]"] = WeakValueDictionary()
    _last: ClassVar["WeakKeyDictionary[Deployment, tuple[str, Session]]"] = WeakKeyDictionary()

    @classmethod
    def of(cls, runtime: Runtime, example_inputs: Inputs, calibration: Split | None, threads: int) -> "Deployment":
        """Return the deployment of these parts: the same object for the same parts while a reference to it exists."""
        # The deployment holds its parts, so that their ids stay unique while the entry lives.
        key = (runtime, id(example_inputs), id(calibration), threads)
        found = cls._live.get(key)
        if found is None:
            found = cls._live[key] = cls(runtime, example_inputs, calibration, threads)
        return found

    def __call__(self, model: nn.Module) -> Session:
        """Return the model's session in this runtime."""
        key = _digest(model)
        known = self._last.get(self)
        if known is not None and key is not None and known[0] == key:
            return known[1]
        session = self.prepare(model)
        if key is not None:
            self._last[self] = (key, session)
        return session

    def prepare(self, model: nn.Module) -> Session:
        """Prepare a new session."""
        selected = with_selected_output(model, None if self.calibration is None else self.calibration.task)
        return self.runtime.prepare(selected, self.example_inputs, threads=self.threads, calibration=self.calibration)


@dataclass(frozen=True, eq=False)
class DeployedPredictions(Predictions):
    """A deployed model's predictions over a split.

    Args:
        deployment: prepares the model for its runtime.
    """

    deployment: Deployment | None = None
    _through: ClassVar["WeakValueDictionary[tuple[int, int], DeployedPredictions]"] = WeakValueDictionary()

    @classmethod
    def through(cls, deployment: Deployment, split: Split) -> "DeployedPredictions":
        """Return a deployment's predictions over a split: the same object for the same two."""
        key = (id(deployment), id(split))
        found = cls._through.get(key)
        if found is None:
            found = cls._through[key] = cls(split, deployment)
        return found

    @property
    def selected(self) -> bool:
        """Whether the session returns the task's output: the one of the calibration data."""
        calibration = None if self.deployment is None else self.deployment.calibration
        return calibration is not None and calibration.task is not None

    def returned(self, model: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (inputs, targets, outputs of the model's session) for each batch."""
        assert self.deployment is not None
        session = self.deployment(model)
        with session.pinned():
            for inputs, targets in self.split.batches():
                yield inputs, targets, session(inputs)


def batch_of(inputs: Inputs, samples: int | None) -> Inputs:
    """Return a batch of that many samples, repeating those of `inputs`; None returns the batch itself.

    Raises:
        KMRError: fewer than one sample.
    """
    if samples is None:
        return inputs
    if samples < 1:
        raise KMRError(f"a batch has at least 1 sample, not {samples}")

    if isinstance(inputs, tuple) and len(inputs) == 1 and isinstance(inputs[0], list):  # images of a detector
        return ([inputs[0][place % len(inputs[0])] for place in range(samples)],)

    def resize(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0 or len(tensor) == samples:
            return tensor
        return tensor[torch.arange(samples) % len(tensor)]

    return map_tensors(resize, inputs)


def _digest(model: nn.Module) -> str | None:
    try:
        return fingerprint(model)
    except (KMRError, RuntimeError):
        return None
