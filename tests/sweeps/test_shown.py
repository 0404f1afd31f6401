"""Contracts of what a sampler is shown of a study, and of the journal it is kept in."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import GPSampler, NSGAIISampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.shown import ENOUGH, INTERMEDIATE_OF, Shown
from sweeps.storage import JOURNAL, open_storage

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}


def add(study: optuna.Study, values: tuple[float, float], of: int | None = None, over: float = 0.0) -> None:
    """Tell a trial, or a model on the way of one."""
    attributes = {} if of is None else {INTERMEDIATE_OF: of}
    study.add_trial(
        create_trial(
            values=values, params={"x": 0.5}, distributions=SPACE, user_attrs=attributes, constraints={"cost": over}
        )
    )


@pytest.fixture
def study() -> optuna.Study:
    """Return a study of as many dominated models on the way as are shown whatever they are."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    for _ in range(ENOUGH):
        add(study, (1.0, 0.0), of=0)
    return study


def test_a_small_study_is_shown_as_it_is_and_a_large_one_to_samplers_that_read_all_of_it(study: optuna.Study) -> None:
    assert Shown().of(study, TPESampler()) is study
    assert Shown().of(study, NSGAIISampler()) is study
    add(study, (1.0, 0.0))
    assert Shown().of(study, TPESampler()) is not study
    assert Shown().of(study, NSGAIISampler()) is not study
    assert Shown().of(study, GPSampler()) is study


class Breeds(NSGAIISampler):
    """NSGA-II that may be shown less of a study than there is."""

    shown: Shown | None = None

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from what is shown."""
        given = study if self.shown is None else self.shown.of(study, self)
        if self.shown is not None and given is not study:
            assert len(given.get_trials(deepcopy=False)) < len(study.get_trials(deepcopy=False)) / 2
        return super().sample_relative(given, trial, search_space)


def test_a_genetic_algorithm_is_shown_its_last_generations_and_draws_the_same() -> None:
    drawn: dict[bool, list[float]] = {}
    for shows in (False, True):
        sampler = Breeds(population_size=20, seed=1)
        sampler.shown = Shown() if shows else None
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        under_way: list[optuna.Trial] = []
        for _ in range(2 * ENOUGH):
            trial = study.ask(SPACE)
            drawn.setdefault(shows, []).append(trial.params["x"])
            under_way.append(trial)
            if len(under_way) > 3:  # finished in another order than asked for
                ended = under_way.pop(1)
                x = ended.params["x"]
                study.tell(ended, (x, 1 - x * x))
                add(study, (x, 0.0), of=ended.number)
    assert drawn[True] == drawn[False]


def test_beyond_it_models_on_the_way_are_shown_where_none_beats_them(study: optuna.Study) -> None:
    shown, tpe = Shown(), TPESampler()
    add(study, (0.5, 0.5), of=1)
    add(study, (0.6, 0.4), of=1)  # beaten
    add(study, (0.6, 0.4))  # asked for
    add(study, (0.1, 0.9), of=2, over=1.0)  # over a limit
    add(study, (0.4, 0.4), of=3)
    assert [t.values for t in shown.of(study, tpe).trials[ENOUGH:]] == [[0.5, 0.5], [0.6, 0.4], [0.4, 0.4]]
    add(study, (0.45, 0.3), of=3)  # beaten by one shown before
    add(study, (0.0, 1.0), of=4)
    assert [t.values for t in shown.of(study, tpe).trials[ENOUGH:]][3:] == [[0.0, 1.0]]


def test_running_trials_are_shown_and_what_was_read_stays_fresh(study: optuna.Study) -> None:
    shown, tpe = Shown(), TPESampler()
    trial = study.ask(SPACE)
    assert shown.of(study, tpe).trials[-1].state == TrialState.RUNNING
    assert len(shown.of(study, tpe)._get_trials(use_cache=True)) == ENOUGH + 1
    study.tell(trial, (0.0, 1.0))
    add(study, (0.1, 0.9), of=trial.number)  # beaten by its own trial
    assert shown.of(study, tpe)._get_trials(use_cache=True)[-1].values == [0.0, 1.0]


def test_tpe_draws_the_same_where_every_trial_was_asked_for() -> None:
    drawn = []
    for shown in (False, True):
        study = optuna.create_study(directions=["minimize", "minimize"])
        for x, y in np.random.default_rng(0).random((ENOUGH + 50, 2)):
            study.add_trial(create_trial(values=(x, y), params={"x": float(x)}, distributions=SPACE))
        tpe = TPESampler(seed=1, multivariate=True)
        given = Shown().of(study, tpe) if shown else study
        number = study.ask().number
        asked = study.get_trials(deepcopy=False)[number]
        drawn.append(tpe.sample_relative(given, asked, SPACE))
        assert study.trials[-1].system_attrs  # what parallel draws are told of this one
    assert drawn[0] == drawn[1]


def test_the_journal_waits_for_the_disk_where_a_trial_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path), directions=["minimize", "maximize"])
    waits: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (waits.append(handle), real(handle)))
    trial = study.ask(SPACE)
    trial.set_user_attr("owner", "me")
    assert not waits
    before = (tmp_path / JOURNAL).read_bytes()
    assert before.endswith(b"\n")
    assert b'"owner"' in before
    study.tell(trial, (1.0, 2.0))
    assert len(waits) == 1
    study.set_user_attr("name", "mine")
    assert len(waits) == 2
    plain = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    assert optuna.load_study(study_name=study.study_name, storage=plain).trials[0].values == [1.0, 2.0]


def test_a_journal_lists_its_trials_as_they_are_while_they_change(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    study = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path), directions=["minimize"] * 2)
    plain = JournalStorage(JournalFileBackend(str(path)))
    other = optuna.load_study(study_name="s", storage=plain)
    study.enqueue_trial({"x": 0.25})

    def both(states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        mine, theirs = (each.get_trials(deepcopy=False, states=states) for each in (study, other))
        assert mine == theirs
        return mine

    assert [trial.state for trial in both()] == [TrialState.WAITING]
    first, second = study.ask(SPACE), other.ask(SPACE)
    assert [trial.number for trial in both((TrialState.RUNNING,))] == [0, 1]
    other.tell(second, (0.0, 1.0))
    assert [trial.number for trial in both((TrialState.RUNNING, TrialState.WAITING))] == [0]
    first.set_user_attr("seen", 1)
    assert both()[0].user_attrs == {"seen": 1}
    study.tell(first, (1.0, 0.0))
    add(other, (0.5, 0.5), of=1)
    assert [trial.number for trial in both((TrialState.COMPLETE,))] == [0, 1, 2]
    assert both((TrialState.RUNNING,)) == []
    both().clear()
    assert len(both()) == 3
    study.get_trials()[0].user_attrs["seen"] = 2
    assert both()[0].user_attrs == {"seen": 1}
    with pytest.raises(KeyError):
        study._storage.get_all_trials(7)
