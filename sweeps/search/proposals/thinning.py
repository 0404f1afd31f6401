"""Thinned view of a study for samplers that read every trial for each proposal."""

import copy
from bisect import insort
from collections.abc import Container, Sequence
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeps.search.study.feed import Feed
from sweeps.search.study.record import is_intermediate

ENOUGH = 250
"""Number of trials up to which a study is shown in full; a proposal from so few takes milliseconds."""


class ThinnedStudy:
    """View of a study without the trials that inform its sampler little or not at all.

    TPE sorts and weighs all trials for each proposal, so two intermediate models per trial triple its cost; only those
    on the front are informative. A genetic algorithm scans all trials too, but breeds only from its last two
    generations and their parents. A study of up to `ENOUGH` trials is shown in full, as is any study to other samplers.
    """

    def __init__(self) -> None:
        self._feed = Feed()
        self._of: _Telling | _Generations | None = None

    def of(self, study: Study, sampler: optuna.samplers.BaseSampler) -> Study:
        """Return the view of a study for its sampler; both must be the same at every call."""
        if self._of is None:
            match sampler:
                case optuna.samplers.BaseGASampler():
                    self._of = _Generations(sampler)
                case optuna.samplers.TPESampler():
                    self._of = _Telling(study.directions)
                case _:
                    return study
        trials = study.get_trials(deepcopy=False)
        if len(trials) <= ENOUGH:
            return study
        for trial in self._feed.read(len(trials), trials.__getitem__):
            if trial.state.is_finished():
                self._of.finished(trial)
        shown = self._of.shown(study, trials)
        for number in self._feed.open:
            insort(shown, trials[number], key=_number)
        storage = cast(BaseStorage, _Only(shown, study._storage))
        return optuna.load_study(study_name=study.study_name, storage=storage, sampler=sampler)


class _Telling:
    """View for TPE: all trials but intermediate models that were dominated or infeasible when they were added."""

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions = directions
        self._shown: list[FrozenTrial] = []
        self._front: list[tuple[float, ...]] = []

    def finished(self, trial: FrozenTrial) -> None:
        """Add a finished trial."""
        if trial.state != TrialState.COMPLETE or self._tells(trial):
            insort(self._shown, trial, key=_number)

    def shown(self, study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the finished trials to show, by number."""
        return self._shown.copy()

    def _tells(self, trial: FrozenTrial) -> bool:
        pairs = zip(trial.values, self._directions, strict=True)
        values = tuple(-value if way == StudyDirection.MAXIMIZE else value for value, way in pairs)
        is_over = any(value > 0 for value in trial.constraints.values())
        if is_over or any(_beats(member, values) for member in self._front):
            return trial.number < ENOUGH or not is_intermediate(trial)
        self._front = [*(member for member in self._front if not _beats(values, member)), values]
        return True


class _Generations:
    """View for a genetic algorithm: its last two generations, and the parents of both."""

    def __init__(self, sampler: optuna.samplers.BaseGASampler) -> None:
        self._key, self._parents_of = sampler._get_generation_key(), sampler._get_parent_cache_key_prefix()
        self._numbers: dict[int, list[int]] = {}
        self._last = 0
        self._parents: list[FrozenTrial] | None = []

    def finished(self, trial: FrozenTrial) -> None:
        """Add a finished trial."""
        generation = trial.system_attrs.get(self._key)
        if trial.state != TrialState.COMPLETE or generation is None:
            return
        self._numbers.setdefault(generation, []).append(trial.number)
        if generation > self._last:
            self._last, self._parents = generation, None

    def shown(self, study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the finished trials to show, by number."""
        if self._parents is None:
            self._parents = self._find_parents(study, trials)
        last_two = (trials[each] for back in (1, 0) for each in self._numbers.get(self._last - back, ()))
        return sorted({trial.number: trial for trial in (*self._parents, *last_two)}.values(), key=_number)

    def _find_parents(self, study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        kept = study._storage.get_study_system_attrs(study._study_id)
        names = [f"{self._parents_of}{each}" for each in (self._last - 1, self._last) if each > 0]
        if not all(name in kept for name in names):  # the sampler will select the parents again, from all trials
            return list(trials)
        ids = {each for name in names for each in kept[name]}
        return [trial for trial in trials if trial._trial_id in ids]


class _Only:
    """Storage that shows only these trials and forwards all else."""

    def __init__(self, trials: list[FrozenTrial], storage: BaseStorage) -> None:
        self._trials, self._storage = trials, storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials that are shown."""
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _number(trial: FrozenTrial) -> int:
    return trial.number


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
