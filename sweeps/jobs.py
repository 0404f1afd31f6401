"""What passes between the driver and whoever does the trials: a job goes out, models measured and its end come back.

A `Work` does one job after the other where it is; an `Executor` (`sweeps.search.execution.executors`) has it done, here
or elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from kmr.core import Value
from sweeps.search.study.point import NOTHING_RECALLED, Point, Recalled


@dataclass(frozen=True)
class Job:
    """A trial to do.

    Args:
        number: of the trial.
        params: its vector.
        front: the objectives' values of the front when it was handed out.
        static: what is known of the vector beforehand.
    """

    number: int
    params: Mapping[str, Value]
    front: tuple[tuple[float, ...], ...] = ()
    static: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """A model was measured; `staged` is its artifact where it may join the front, `problem` why it has none."""

    number: int
    point: Point
    staged: Path | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Ended:
    """A trial is over: complete, and what it came to is the last model it measured; else the error says why.

    Args:
        number: of the trial.
        state: complete, failed, infeasible, pruned at a low fidelity, or lost with the process that did it.
        error: why it is not complete.
        seconds: it took.
        overhead: of those, what neither rules, fine-tuning nor meters took.
        notes: on how it went.
        recalled: what it had from the prefix cache.
    """

    number: int
    state: str
    error: str | None = None
    seconds: float = 0.0
    overhead: float = 0.0
    notes: tuple[str, ...] = ()
    recalled: Recalled = NOTHING_RECALLED


Told: TypeAlias = Measured | Ended
Tell: TypeAlias = Callable[[Told], None]


class Work(Protocol):
    """Does trials, one at a time."""

    def __call__(self, job: Job, tell: Tell) -> Ended:
        """Do a job: tell of every model as it is measured, and return how the trial ended.

        Whatever goes wrong with one trial is its end; an exception is of what would go wrong with every other too.
        """

    @property
    def recipe(self) -> Callable[[], "Work"]:
        """What makes the same work in another process; it can be pickled."""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 400 characters."""
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 400 else text[:397] + "…"


def describe(error: BaseException) -> str:
    """Return an error's kind and message on one line."""
    return f"{type(error).__name__}: {one_line(error)}"
