"""Who is told what happens to a study."""

from collections.abc import Hashable, Iterable, Sequence

from sweeps.search.study.point import Measured, Point
from sweeps.search.study.record import Record


class Observer:
    """Is told what happens to a study, and has a say in what is kept; this one does nothing."""

    def kept(self, point: Point) -> Point:
        """Return a point of a trial under way as the study shall keep it."""
        return point

    def measured(self, told: Measured) -> None:
        """Take a model of a trial under way; the ledger has its point."""

    def known(self, record: Record) -> Iterable[tuple[Hashable, Sequence[Point]]]:
        """Yield what need not be trained again after a trial: the key of a model, and the points that lead to it."""
        return ()

    def took(self, record: Record) -> None:
        """Take a finished trial, of this run or another; those of earlier runs come when the ledger is opened."""

    def closed(self, record: Record) -> None:
        """Take a trial of this run that is over for good; `took` has been told of it."""

    def overtaken(self) -> None:
        """Forget what a trial has measured that another driver finished: it is no record of the study."""

    @property
    def front_values(self) -> tuple[tuple[float, ...], ...]:
        """The objectives' values of the front."""
        return ()

    @property
    def base(self) -> Point | None:
        """The model that a vector leads to which changes nothing."""
        return None
