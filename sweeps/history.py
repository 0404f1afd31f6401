"""What a study has tried so far, kept up as it grows: to look at all trials for each proposal is quadratic in them."""

from bisect import insort
from collections.abc import Hashable

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.problem import Problem


class History:
    """The trials of a study whose vector is whole, by what they lead to.

    A trial that has ended never changes, so it is read once; those waiting or running are looked at every time.

    Args:
        problem: tells which vectors lead to the same model.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._next = 0
        self._open: list[int] = []
        self._ended: set[Hashable] = set()
        self._under_way: set[Hashable] = set()
        self.complete: list[FrozenTrial] = []
        """Complete trials, by number."""
        self.feasible: list[FrozenTrial] = []
        """Complete trials that meet all limits, by number."""
        self.running: list[FrozenTrial] = []
        """Trials under way, by number."""
        self.tried = 0
        """Trials that ended or are under way, without those that were turned down."""

    def read(self, study: Study) -> None:
        """Take in what the study has become."""
        trials = study.get_trials(deepcopy=False)
        self.tried -= len(self.running)
        looked_at = [trials[number] for number in (*self._open, *range(self._next, len(trials)))]
        self._next = len(trials)
        self._open = [trial.number for trial in looked_at if not trial.state.is_finished()]
        whole = [trial for trial in looked_at if trial.params.keys() == self._problem.space.keys()]
        self.tried += sum(trial.state != TrialState.PRUNED for trial in whole)
        self.running = [trial for trial in whole if not trial.state.is_finished()]
        self._under_way = {self._key(trial) for trial in self.running}
        for trial in whole:
            if trial.state.is_finished():
                self._end(trial)

    def knows(self, key: Hashable) -> bool:
        """Tell whether a vector that leads to the same model has been tried or is under way."""
        return key in self._ended or key in self._under_way

    def has_ended(self, key: Hashable) -> bool:
        """Tell whether a vector that leads to the same model has been tried to its end."""
        return key in self._ended

    def _end(self, trial: FrozenTrial) -> None:
        key = self._key(trial)
        self._ended.add(key)
        if trial.state != TrialState.COMPLETE:
            return
        _insert(self.complete, trial)
        if all(value <= 0 for value in trial.constraints.values()):
            _insert(self.feasible, trial)

    def _key(self, trial: FrozenTrial) -> Hashable:
        return self._problem.canonical(trial.params)


def _insert(trials: list[FrozenTrial], trial: FrozenTrial) -> None:
    insort(trials, trial, key=lambda each: each.number)
