"""What is shown of a study to a sampler that looks at every trial for each proposal."""

from collections.abc import Container, Sequence
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

INTERMEDIATE_OF = "kmr:intermediate_of"
"""The user attribute of a trial that is a model on the way of another one: the number of that one."""
ENOUGH = 250
"""Trials that are shown whatever they are: a draw from so few takes some milliseconds."""


class Shown:
    """A study without the intermediate models that tell little: those that another model beats.

    To draw once, TPE sorts and weighs all trials anew, and with two intermediate models for each trial that costs three
    times as much as it need: of the models on the way to one that is told anyway, those of use are on the front. A
    study of up to `ENOUGH` trials is shown as it is.
    """

    def __init__(self) -> None:
        self._hidden: set[int] = set()
        self._next = 0
        self._open: list[int] = []
        self._front: list[tuple[float, ...]] = []

    def of(self, study: Study, sampler: optuna.samplers.BaseSampler) -> Study:
        """Return what to show of a study, always the same one, to its sampler."""
        if not isinstance(sampler, optuna.samplers.TPESampler):
            return study
        trials = study.get_trials(deepcopy=False)
        if len(trials) <= ENOUGH:
            return study
        looked_at = [trials[number] for number in (*self._open, *range(self._next, len(trials)))]
        self._next = len(trials)
        self._open = [trial.number for trial in looked_at if not trial.state.is_finished()]
        for trial in looked_at:
            if trial.state == TrialState.COMPLETE and not self._tells(trial, study.directions):
                self._hidden.add(trial.number)
        storage = cast(BaseStorage, _Without(self._hidden, study._storage))
        return optuna.load_study(study_name=study.study_name, storage=storage, sampler=sampler)

    def _tells(self, trial: FrozenTrial, directions: Sequence[StudyDirection]) -> bool:
        pairs = zip(trial.values, directions, strict=True)
        values = tuple(-value if way == StudyDirection.MAXIMIZE else value for value, way in pairs)
        is_over = any(value > 0 for value in trial.constraints.values())
        if is_over or any(_beats(member, values) for member in self._front):
            return trial.number < ENOUGH or INTERMEDIATE_OF not in trial.user_attrs
        self._front = [*(member for member in self._front if not _beats(values, member)), values]
        return True


class _Without:
    """A storage whose list of trials leaves out some; all else is the storage's own."""

    def __init__(self, hidden: set[int], storage: BaseStorage) -> None:
        self._hidden, self._storage = hidden, storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials that are not left out."""
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [trial for trial in trials if trial.number not in self._hidden]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
