"""Meters: scalar readings of a model (Definition 2), each with a kind, a unit, a direction and an uncertainty."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, final

import torch
from torch import nn

from kmr.core.errors import KMRError, NonFiniteReading
from kmr.core.seeding import isolated_rng

Direction: TypeAlias = Literal["minimize", "maximize"]
Kind: TypeAlias = Literal["cost", "quality"]
View: TypeAlias = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Reading:
    """One measured value; `stderr` is its standard error where the value is an estimate.

    `note` says what is doubtful about the value; it is kept with the step, and no part of what was read.
    """

    value: float
    stderr: float | None = None
    note: str | None = field(default=None, compare=False)


Readings: TypeAlias = Mapping[str, Reading]


def the_model(model: nn.Module) -> nn.Module:
    """Look at the model itself: the view of a meter that needs no data."""
    return model


@dataclass(frozen=True, kw_only=True)
class Meter(ABC):
    """Reads one number off a model and leaves parameters, buffers, train/eval mode and random state as they were.

    A meter reads what its `view` shows of the model. Meters that share a view object (the predictions on one data
    split, say) share the work of making it when they are read together by `measure`.
    """

    name: str
    unit: str = field(init=False)
    direction: Direction = field(init=False)
    kind: ClassVar[Kind]
    """Whether it says what a model takes or how good it is; which way is better is the direction."""
    static: ClassVar[bool] = False
    """Whether structure and bits alone decide the reading, so that it is known before anything is fine-tuned."""

    @property
    def view(self) -> View:
        """Return what this meter looks at: by default, the model itself."""
        return the_model

    @abstractmethod
    def read(self, seen: Any) -> Reading:
        """Read the value off what the view showed."""

    @final
    def __call__(self, model: nn.Module) -> Reading:
        """Read this meter alone."""
        return measure(model, [self])[self.name]


@dataclass(frozen=True, kw_only=True)
class Cost(Meter):
    """Meter of what a model takes: never negative, always minimised."""

    kind: ClassVar[Kind] = "cost"
    trained: ClassVar[bool] = False
    """Whether it reads something that training changes (how confident a model is, say), and may rise with it."""
    direction: Direction = field(init=False, default="minimize")


@dataclass(frozen=True, kw_only=True)
class Quality(Meter):
    """Meter of how good a model is, in the direction its users know.

    Higher is better unless the class says otherwise, as a loss or an error does:
    `direction: Direction = field(init=False, default="minimize")`.
    """

    kind: ClassVar[Kind] = "quality"
    direction: Direction = field(init=False, default="maximize")

    def lost(self, before: float, after: float) -> float:
        """Return by how much a reading is worse than the one before it (ΔQ); negative where it is better."""
        return after - before if self.direction == "minimize" else before - after


def measure(model: nn.Module, meters: Iterable[Meter]) -> dict[str, Reading]:
    """Read several meters off one model, in evaluation mode and without gradients.

    Returns the readings by meter name, in the order given.

    Raises:
        NonFiniteReading: a value is NaN or infinite.
        KMRError: a cost is negative.
    """
    modes = {module: module.training for module in model.modules()}
    seen: dict[View, Any] = {}
    readings: dict[str, Reading] = {}
    model.eval()
    try:
        with isolated_rng(0), torch.no_grad():
            for meter in meters:
                if meter.view not in seen:
                    seen[meter.view] = meter.view(model)
                readings[meter.name] = _checked(meter, meter.read(seen[meter.view]))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return readings


def _checked(meter: Meter, reading: object) -> Reading:
    if not isinstance(reading, Reading):
        raise KMRError(f"meter {meter.name} gave a {type(reading).__name__}, not a Reading(value, stderr)")
    if reading.stderr is not None and not math.isfinite(reading.stderr):
        raise NonFiniteReading(f"meter {meter.name} has a standard error of {reading.stderr}")
    if not math.isfinite(reading.value):
        raise NonFiniteReading(f"meter {meter.name} read {reading.value}: the model has diverged")
    if isinstance(meter, Cost) and reading.value < 0:
        raise KMRError(f"meter {meter.name} read {reading.value}: a cost cannot be negative")
    return reading
