"""Interfaces of the ledger: a catalogue of known models, and observers of trials."""

from collections.abc import Callable, Hashable, Iterable, Sequence

from sweeps.search.study.point import MeasuredModel, Point
from sweeps.search.study.record import Record


class Catalogue:
    """Knowledge of models, by which the ledger avoids to train one twice; this one knows nothing."""

    def kept(self, point: Point) -> Point:
        """Return a point of a running trial as the study shall keep it."""
        return point

    def known(self, record: Record) -> Iterable[tuple[Hashable, Sequence[Point]]]:
        """Yield the models that a trial measured: the key of each, and the points that lead to it."""
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
    """Listener to the events of a study; this one does nothing."""

    def measured(self, told: MeasuredModel) -> None:
        """Hear of a model that a running trial measured; the ledger has its point."""

    def took(self, record: Record) -> None:
        """Hear of a finished trial, of this run or another; those of earlier runs come when the ledger is opened."""

    def closed(self, record: Record) -> None:
        """Hear of a trial of this run that has ended; `took` was called before."""

    def overtaken(self) -> None:
        """Forget what a trial measured that another driver finished: it is no record of the study."""


def each(observers: Sequence[Observer], event: Callable[[Observer], None]) -> None:
    """Call every observer, then raise the first error: one that fails does not silence the others."""
    problems = []
    for observer in observers:
        try:
            event(observer)
        except Exception as problem:
            problems.append(problem)
    if problems:
        raise problems[0]
