"""Task: a running trial and the models it has measured so far."""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import optuna

from kmr.core import Value
from sweeps.search.study.point import NOTHING_RECALLED, Ended, Point, Recalled


@dataclass(eq=False)
class Task:
    """Running trial.

    Args:
        number: the trial's number among the trials proposed for evaluation.
        trial: the Optuna trial.
        static: static costs of its vector.
        key: key that is equal for vectors of the same model.
        started: start time, by `time.perf_counter`.
        rung: number of low fidelities it has passed.
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
        """Time since the trial was proposed."""
        return time.perf_counter() - self.started

    def climb(self, ended: Ended) -> None:
        """Move to the next fidelity after a job at a low one."""
        self.rung, self._spent, self._recalled = self.rung + 1, ended.seconds, ended.recalled

    def whole(self, ended: Ended) -> Ended:
        """Add the durations and cache hits of the trial's earlier jobs."""
        return replace(ended, seconds=self._spent + ended.seconds, recalled=self._recalled + ended.recalled)
