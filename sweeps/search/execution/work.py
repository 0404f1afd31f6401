"""Messages between driver and executor: a job in one direction, measured models and the end of the job in the other.

A `Work` runs one job at a time in its process; an `Executor` (`sweeps.search.execution.executors`) runs a work in this
process or in others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from kmr.core import Value
from sweeps.search.study.point import Ended, MeasuredModel


@dataclass(frozen=True)
class Job:
    """Evaluation of a trial at one fidelity.

    Args:
        number: the trial's number.
        params: its vector.
        front: the objectives' values on the front when the job was created.
        static: static costs of the vector.
        rung: index of the fidelity; a trial has a job for each fidelity until it is stopped early.
    """

    number: int
    params: Mapping[str, Value]
    front: tuple[tuple[float, ...], ...] = ()
    static: Mapping[str, float] = field(default_factory=dict)
    rung: int = 0


Told: TypeAlias = MeasuredModel | Ended


Tell: TypeAlias = Callable[[Told], None]


class Work(Protocol):
    """Interface that runs jobs, one at a time."""

    def __call__(self, job: Job, tell: Tell) -> Ended:
        """Run a job: report every model through `tell` as it is measured, and return the end of the job.

        A failure of one trial is returned as its end; an exception means that every other trial would fail too.
        """

    @property
    def recipe(self) -> Callable[[], "Work"]:
        """Function that builds the same work in another process; it can be pickled."""
