"""Meters: scalar readings of a model (Definition 2), each with a kind, a unit, a direction and an uncertainty."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Measured value; `stderr` is its standard error if the value is an estimate.

    `note` explains a doubt about the value; it is stored with the step and does not count in comparisons.
    """

    value: float
    stderr: float | None = None
    note: str | None = field(default=None, compare=False)


Readings: TypeAlias = Mapping[str, Reading]


class SharedView(ABC):
    """View that all of its meters read in one pass, so that nothing but what they keep is held in memory."""

    @abstractmethod
    def fold(self, model: nn.Module, meters: "Sequence[Meter]") -> Mapping[str, Any]:
        """Run the pass and return what each meter reads, by its name."""

    @abstractmethod
    def __call__(self, model: nn.Module) -> Any:
        """Return the view itself, for code that reads no meter."""


def the_model(model: nn.Module) -> nn.Module:
    """Return the model itself, as the view of a meter that needs no data."""
    return model


@dataclass(frozen=True, kw_only=True)
class Meter(ABC):
    """Scalar reading of a model, which leaves parameters, buffers, train/eval mode and random state unchanged.

    A meter reads its value from a `view` of the model. Meters with the same view object (the predictions on one data
    split, say) share the computation of the view when `measure` reads them together.
    """

    name: str
    unit: str = field(init=False)
    direction: Direction = field(init=False)
    kind: ClassVar[Kind]
    """Whether the meter reads a cost or a quality; `direction` defines which values are better."""
    static: ClassVar[bool] = False
    """Whether the reading depends on structure and bits only, so that it is known before fine-tuning."""

    @property
    def view(self) -> View:
        """Return this meter's view: by default, the model itself."""
        return the_model

    @abstractmethod
    def read(self, seen: Any) -> Reading:
        """Read the value from the result of the view."""

    @final
    def __call__(self, model: nn.Module) -> Reading:
        """Read this meter alone."""
        return measure(model, [self])[self.name]


@dataclass(frozen=True, kw_only=True)
class Cost(Meter):
    """Meter of a model's cost: never negative, always minimised."""

    kind: ClassVar[Kind] = "cost"
    trained: ClassVar[bool] = False
    """Whether training changes the reading and may raise it, as with the confidence of a model."""
    direction: Direction = field(init=False, default="minimize")


@dataclass(frozen=True, kw_only=True)
class Quality(Meter):
    """Meter of a model's quality, in its usual direction.

    Higher is better unless the class says otherwise, as a loss or an error does:
    `direction: Direction = field(init=False, default="minimize")`.
    """

    kind: ClassVar[Kind] = "quality"
    direction: Direction = field(init=False, default="maximize")

    def lost(self, before: float, after: float) -> float:
        """Return by how much the second reading is worse than the first (ΔQ); negative if it is better."""
        return after - before if self.direction == "minimize" else before - after


def measure(model: nn.Module, meters: Iterable[Meter]) -> dict[str, Reading]:
    """Read several meters off one model, in evaluation mode and without gradients.

    Returns the readings by meter name, in the order given.

    Raises:
        NonFiniteReading: a value is NaN or infinite.
        KMRError: a cost is negative.
    """
    modes = {module: module.training for module in model.modules()}
    meters = list(meters)
    seen: dict[View, Any] = {}
    readings: dict[str, Reading] = {}
    model.eval()
    try:
        with isolated_rng(0), torch.no_grad():
            for meter in meters:
                view = meter.view
                if view not in seen:
                    together = [each for each in meters if each.view == view]
                    seen[view] = view.fold(model, together) if isinstance(view, SharedView) else view(model)
                part = seen[view][meter.name] if isinstance(view, SharedView) else seen[view]
                readings[meter.name] = _checked(meter, meter.read(part))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return readings


def _checked(meter: Meter, reading: object) -> Reading:
    if not isinstance(reading, Reading):
        raise KMRError(f"meter {meter.name} returned a {type(reading).__name__}: return a Reading(value, stderr)")
    if reading.stderr is not None and not math.isfinite(reading.stderr):
        raise NonFiniteReading(f"meter {meter.name} has a standard error of {reading.stderr}")
    if not math.isfinite(reading.value):
        raise NonFiniteReading(f"meter {meter.name} read {reading.value}: the model has diverged")
    if isinstance(meter, Cost) and reading.value < 0:
        raise KMRError(f"meter {meter.name} read {reading.value}: a cost cannot be negative; make it a Quality")
    return reading
