"""The front during a search: its members and its hypervolume."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from analysis.pareto.dominance import Floats, as_costs
from analysis.pareto.hypervolume import hypervolume_share
from kmr.core import Direction, Kind, Step
from sweeps.errors import SweepError
from sweeps.experiment.config import Config
from sweeps.search.study.point import Point


class Objective(Protocol):
    """A meter to search over."""

    @property
    def name(self) -> str: ...

    @property
    def direction(self) -> Direction: ...

    @property
    def kind(self) -> Kind: ...


class Judged(Protocol):
    """The objectives and the base model to compare points by: an experiment, or the card of a study."""

    @property
    def objectives(self) -> Sequence[Objective]: ...

    @property
    def directions(self) -> list[Direction]: ...

    @property
    def base(self) -> Step: ...

    @property
    def config(self) -> Config: ...


class Front:
    """The non-dominated points seen so far.

    Args:
        experiment: names the objectives; its base model fixes the reference and ideal points of the hypervolume.
    """

    def __init__(self, experiment: Judged) -> None:
        self._names = [meter.name for meter in experiment.objectives]
        self._directions = experiment.directions
        self.reference, self.ideal = corners(experiment)
        self._members: dict[str, tuple[float, ...]] = {}
        self._costs = np.empty((0, len(self._names)))  # of the members, all to be minimised
        self.add("base", Point.of(0, experiment.base))
        try:
            _ = self.hypervolume
        except ValueError as error:
            raise SweepError(f"reference must be finite and worse than the base model: {error}") from error

    @property
    def members(self) -> tuple[str, ...]:
        """The ids of the points on the front."""
        return tuple(self._members)

    @property
    def values(self) -> tuple[tuple[float, ...], ...]:
        """The objectives' values of the points on the front."""
        return tuple(self._members.values())

    def would_join(self, point: Point) -> bool:
        """Tell whether a point would be on the front; of equal points, only the first joins."""
        costs = self._costs_of(point)
        return bool(np.isfinite(costs).all() and not (self._costs <= costs).all(axis=1).any())

    def add(self, identifier: str, point: Point) -> Sequence[str]:
        """Offer a point; return the ids of the members it dominates, which leave the front."""
        if not self.would_join(point):
            return []
        costs = self._costs_of(point)
        beaten = np.all(costs <= self._costs, axis=1)
        pushed = [name for name, is_beaten in zip(self._members, beaten.tolist(), strict=True) if is_beaten]
        for name in pushed:
            del self._members[name]
        self._members[identifier] = tuple(point.values(self._names))
        self._costs = np.concatenate([self._costs[~beaten], costs])
        self.__dict__.pop("hypervolume", None)
        return pushed

    def _costs_of(self, point: Point) -> Floats:
        return as_costs(np.array([point.values(self._names)]), self._directions)

    @cached_property
    def hypervolume(self) -> float:
        """The dominated share of the box between the reference and the ideal point."""
        reference = [self.reference[name] for name in self._names]
        ideal = [self.ideal[name] for name in self._names]
        return hypervolume_share(np.array(self.values), reference, ideal, self._directions)


def corners(experiment: Judged) -> tuple[dict[str, float], dict[str, float]]:
    """Return the reference and the ideal point of the hypervolume, by objective.

    The ideal point has zero cost and the base model's quality. Unless the config names another, the reference point has
    1.1 times the base model's cost, and a quality that is worse by half.
    """
    reference, ideal = {}, {}
    for meter in experiment.objectives:
        base = experiment.base.readings[meter.name].value
        if meter.kind == "cost":
            reference[meter.name], ideal[meter.name] = (1.1 * base or 1.0), 0.0
        else:
            worse = 1 if meter.direction == "minimize" else -1
            reference[meter.name], ideal[meter.name] = base + worse * (0.5 * abs(base) or 1.0), base
        reference[meter.name] = experiment.config.reference.get(meter.name, reference[meter.name])
    return reference, ideal
