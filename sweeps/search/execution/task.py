"""Task: a trial that was handed out, and what it has measured so far."""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import optuna

from kmr.core import Value
from sweeps.search.study.point import NOTHING_RECALLED, Ended, Point, Recalled


@dataclass(eq=False)
class Task:
    """A trial that was handed out.

    Args:
        number: its place among the trials that were asked for.
        trial: Optuna's.
        static: the costs of its vector that are known beforehand.
        key: equal for vectors of the same model.
        started: when, by `time.perf_counter`.
        rung: how many low fidelities it has passed.
        points: the models it has measured.
    """

    number: int
    trial: optuna.Trial
    static: Mapping[str, float]
    key: Hashable
    started: float
    rung: int = 0
    points: list[Point] = field(default_factory=list)
    _spent: float = 0.0
    _recalled: Recalled = NOTHING_RECALLED

    @property
    def params(self) -> Mapping[str, Value]:
        """The vector to train."""
        return self.trial.params

    @property
    def seconds(self) -> float:
        """Since it was asked for."""
        return time.perf_counter() - self.started

    def climb(self, ended: Ended) -> None:
        """Go on to the next fidelity after a job at a low one."""
        self.rung, self._spent, self._recalled = self.rung + 1, ended.seconds, ended.recalled

    def whole(self, ended: Ended) -> Ended:
        """Add what the jobs before this one took."""
        return replace(ended, seconds=self._spent + ended.seconds, recalled=self._recalled + ended.recalled)
