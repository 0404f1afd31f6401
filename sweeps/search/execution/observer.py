"""Interfaces of the ledger: a catalogue of known models, and observers of trials."""

from collections.abc import Callable, Hashable, Iterable, Sequence

from sweeps.search.study.point import MeasuredModel, Point
from sweeps.search.study.record import Record


class Catalogue:
    """Catalogue of known models, so that the ledger trains no model twice; this one is empty."""

    def kept(self, point: Point) -> Point:
        """Return a point of a running trial in the form that the study keeps."""
        return point

    def known(self, record: Record) -> Iterable[tuple[Hashable, Sequence[Point]]]:
        """Yield the key of each model that a trial measured, with the points that lead to the model."""
        return ()

    @property
    def front_values(self) -> tuple[tuple[float, ...], ...]:
        """The objectives' values of the front."""
        return ()

    @property
    def base(self) -> Point | None:
        """The model of the vector that changes nothing."""
        return None


class Observer:
    """Observer of the events of a study; this one does nothing."""

    def measured(self, told: MeasuredModel) -> None:
        """React to a model that a running trial measured; the ledger already has its point."""

    def took(self, record: Record) -> None:
        """React to a finished trial, of this run or another; trials of earlier runs come when the ledger is opened."""

    def closed(self, record: Record) -> None:
        """React to the end of a trial of this run; `took` was called before."""

    def overtaken(self) -> None:
        """Discard the measurements of a trial that another driver has finished: the study has no record of them."""


def each(observers: Sequence[Observer], event: Callable[[Observer], None]) -> None:
    """Call every observer, then raise the first error, so that a failing observer does not block the others."""
    problems = []
    for observer in observers:
        try:
            event(observer)
        except Exception as problem:
            problems.append(problem)
    if problems:
        raise problems[0]
