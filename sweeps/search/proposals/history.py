"""History of a study's trials, updated incrementally, as a scan of all trials for each proposal would be quadratic."""

from bisect import bisect, insort
from collections.abc import Hashable

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from analysis.pareto.dominance import as_costs
from sweeps.search.problem import Problem
from sweeps.search.study.feed import Feed
from sweeps.search.study.record import was_tried


class History:
    """History of the trials with a complete vector, by model.

    A trial that has ended never changes and is read once; waiting and running trials are read every time.

    Args:
        problem: the search problem, whose `canonical` identifies a model.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._feed = Feed()
        self._ended: set[Hashable] = set()
        self._under_way: set[Hashable] = set()
        self.complete: list[FrozenTrial] = []
        """Complete trials, by number."""
        self.feasible: list[FrozenTrial] = []
        """Complete trials that meet all limits, by number."""
        self.running: list[FrozenTrial] = []
        """Waiting and running trials, by number."""
        self._tried: list[int] = []
        self._front, self._numbers = np.empty((0, len(problem.objectives))), np.empty(0, dtype=np.intp)

    @property
    def idle(self) -> int:
        """Number of finished trials since the newest front member."""
        return len(self._tried) - bisect(self._tried, self._numbers.max(initial=-1))

    def read(self, study: Study) -> None:
        """Read the trials that have changed."""
        trials = study.get_trials(deepcopy=False)
        changed = self._feed.read(len(trials), trials.__getitem__)
        whole = [trial for trial in changed if trial.params.keys() == self._problem.space.keys()]
        self.running = [trial for trial in whole if not trial.state.is_finished()]
        self._under_way = {self._key(trial) for trial in self.running}
        for trial in whole:
            if trial.state.is_finished():
                self._end(trial)

    def knows(self, key: Hashable) -> bool:
        """Tell whether a trial of the same model has ended, is running or is waiting."""
        return key in self._ended or key in self._under_way

    def has_ended(self, key: Hashable) -> bool:
        """Tell whether a trial of the same model has ended."""
        return key in self._ended

    def _end(self, trial: FrozenTrial) -> None:
        key = self._key(trial)
        self._ended.add(key)
        if was_tried(trial):
            insort(self._tried, trial.number)
        if trial.state != TrialState.COMPLETE:
            return
        _insert(self.complete, trial)
        if all(value <= 0 for value in trial.constraints.values()):
            _insert(self.feasible, trial)
            self._add_to_front(trial)

    def _add_to_front(self, trial: FrozenTrial) -> None:
        costs = as_costs(np.array([trial.values]), list(self._problem.objectives.values()))
        equal = (self._front == costs).all(axis=1)
        self._numbers[equal] = np.minimum(self._numbers[equal], trial.number)  # whichever was read first
        if not (self._front <= costs).all(axis=1).any():
            stay = ~(costs <= self._front).all(axis=1)
            self._front = np.concatenate([self._front[stay], costs])
            self._numbers = np.append(self._numbers[stay], trial.number)

    def _key(self, trial: FrozenTrial) -> Hashable:
        return self._problem.canonical(trial.params)


def _insert(trials: list[FrozenTrial], trial: FrozenTrial) -> None:
    insort(trials, trial, key=lambda each: each.number)
