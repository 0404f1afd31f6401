"""Messages between the driver and whoever does the trials: a job goes out, measured models and its end come back.

A `Work` does one job after the other where it is; an `Executor` (`sweeps.search.execution.executors`) has it done, here
or elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from kmr.core import Value
from sweeps.search.study.point import Ended, MeasuredModel


@dataclass(frozen=True)
class Job:
    """A trial to do.

    Args:
        number: of the trial.
        params: its vector.
        front: the objectives' values of the front when it was handed out.
        static: what is known of the vector beforehand.
        rung: place of its fidelity among those of the halving; a trial is a job for each until it is stopped.
    """

    number: int
    params: Mapping[str, Value]
    front: tuple[tuple[float, ...], ...] = ()
    static: Mapping[str, float] = field(default_factory=dict)
    rung: int = 0


Told: TypeAlias = MeasuredModel | Ended


Tell: TypeAlias = Callable[[Told], None]


class Work(Protocol):
    """Does trials, one at a time."""

    def __call__(self, job: Job, tell: Tell) -> Ended:
        """Do a job: tell of every model as it is measured, and return how the job ended.

        Whatever goes wrong with one trial is its end; an exception is of what would go wrong with every other too.
        """

    @property
    def recipe(self) -> Callable[[], "Work"]:
        """What makes the same work in another process; it can be pickled."""
