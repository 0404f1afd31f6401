"""Catalogue and observer of a search over a user's function."""

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from analysis.pareto.dominance import Floats, as_costs
from analysis.pareto.hypervolume import hypervolume_share
from sweeps.search.execution.observer import Catalogue, Observer
from sweeps.search.execution.stopping import Stop, Stopping
from sweeps.search.problem import Problem
from sweeps.search.result import TrialResult, of_record
from sweeps.search.study.point import Point
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState


class CompleteTrials(Catalogue):
    """Catalogue of the models of complete trials, by the problem's canonical vectors."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def known(self, record: Record) -> Iterable[tuple[Hashable, Sequence[Point]]]:
        """Yield the model of a complete trial."""
        if record.state == TrialState.COMPLETE:
            yield self._problem.canonical(record.params), record.points


class Watcher(Observer):
    """Observer of a search over a user's function.

    Args:
        problem: the search problem.
        stop: limits that end the search early.
    """

    def __init__(self, problem: Problem, stop: Stop) -> None:
        self._problem = problem
        self._values: list[list[float] | None] = []
        self.stopping = Stopping(stop, self._gain)
        """Rule that ends the search early."""
        self.on_trial: Callable[[TrialResult], None] | None = None
        """Callback for each trial of this run that ends."""

    def took(self, record: Record) -> None:
        """Keep the values of the trial."""
        if record.state == TrialState.DUPLICATE:
            return
        self.stopping.finished(record)
        if record.state == TrialState.RETRIED:
            return
        result = of_record(record, self._problem)
        names = self._problem.objectives
        self._values.append([result.readings[name] for name in names] if result.is_feasible else None)

    def closed(self, record: Record) -> None:
        """Call `on_trial`."""
        if self.on_trial is not None:
            self.on_trial(of_record(record, self._problem))

    def _gain(self, window: int) -> float:
        """Return the hypervolume gained by the last `window` trials, as a share of the box that all models span."""
        directions = list(self._problem.objectives.values())
        before, every = (
            as_costs(_rows(values, directions), directions) for values in (self._values[:-window], self._values)
        )
        if not len(every):
            return 0.0
        ideal, worst = every.min(axis=0), every.max(axis=0)
        span = np.where(worst > ideal, worst - ideal, 1.0)
        minimize = ["minimize"] * len(directions)
        now, then = (hypervolume_share(each, worst + 0.1 * span, ideal, minimize) for each in (every, before))
        return now - then


def _rows(values: Sequence[list[float] | None], directions: Sequence[str]) -> Floats:
    return np.array([row for row in values if row is not None], dtype=np.float64).reshape(-1, len(directions))
