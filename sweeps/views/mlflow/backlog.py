"""Backlog of finished trials that MLflow does not have yet, with the study's figures after each."""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sweeps.search.study.record import Record
from sweeps.views.mlflow.runs import StudyRuns

PACE = 2.0
"""Seconds between two updates of the study's own run (its figures and its front) while trials end quickly."""


@dataclass(frozen=True)
class Finished:
    """A finished trial as MLflow shows it, with the study's figures then; `on_front` None leaves tags unchanged."""

    record: Record
    name: str
    hypervolume: float
    on_front: Collection[str] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> list[tuple[str, float | None, int]]:
        """The figures to write to the study's run."""
        size = {} if self.on_front is None else {"front_size": float(len(self.on_front))}
        figures = {"hypervolume": self.hypervolume, **size, **self.figures}
        return [(name, value, self.record.number) for name, value in figures.items()]


class Backlog:
    """Trials to write, and the figures and the front that the study's own run lacks.

    A trial leaves the backlog once it is written, so that writing resumes there after a failure.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._trials: deque[Finished] = deque()
        self._due: list[tuple[str, float | None, int]] = []
        self._front: Collection[str] | None = None
        self._stood_at = -math.inf

    def __len__(self) -> int:
        """Count the trials that are not written."""
        return len(self._trials)

    @property
    def lags(self) -> bool:
        """Whether the study's own run lacks the figures or the front after trials that are already written."""
        return bool(self._due) or self._front is not None

    def add(self, trials: Iterable[Finished]) -> None:
        """Add trials, in the order they finished."""
        self._trials.extend(trials)

    def write(self, runs: StudyRuns) -> None:
        """Write the trials that have no run yet, and the study's figures if their last update is `PACE` seconds old."""
        while self._trials:
            finished = self._trials[0]
            if finished.record.number not in runs.run_ids:
                runs.trial(finished.record, finished.name)
                self._due += finished.metrics
            self._front = self._front if finished.on_front is None else finished.on_front
            self._trials.popleft()
        if self._clock() - self._stood_at >= PACE:
            self.write_standing(runs)

    def write_standing(self, runs: StudyRuns) -> None:
        """Write the study's figures after each trial since the last update, and mark the current front."""
        if self._due:
            runs.write(runs.parent, self._due)
        if self._front is not None:
            runs.mark(self._front)
        self._due, self._front, self._stood_at = [], None, self._clock()
