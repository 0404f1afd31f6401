"""Contracts of what a sampler is shown of a study, and of the journal it is kept in."""

import os
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from sweeps.shown import ENOUGH, INTERMEDIATE_OF, Shown
from sweeps.storage import JOURNAL, open_storage

SPACE = {"x": FloatDistribution(0, 1)}


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


def test_a_small_study_is_shown_as_it_is_and_a_large_one_to_tpe_alone(study: optuna.Study) -> None:
    assert Shown().of(study, TPESampler()) is study
    add(study, (1.0, 0.0))
    assert Shown().of(study, TPESampler()) is not study
    assert Shown().of(study, NSGAIISampler()) is study


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
        drawn.append(tpe.sample_relative(given, asked, dict(SPACE)))
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
