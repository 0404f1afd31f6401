"""Rungs live in the study: every driver sees them, whatever dies, and no decision is made twice."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import BaseStorage

from kmr.core import IntRange
from sweeps import search
from sweeps.errors import SweepError
from sweeps.search.execution.halving import EarlyStopping, Halving
from sweeps.search.study.attributes import OWNER, RUNGS
from sweeps.search.study.lease import claim, put_back
from sweeps.search.study.point import Ended, Point
from sweeps.search.study.record import abandon, records
from sweeps.search.study.rungs import Rungs
from sweeps.search.study.storage import open_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)
WAYS = {"bytes": "minimize", "accuracy": "maximize"}
RULE = Halving((0.25, 0.5, 1.0), grace=2, z=0.0)


def point(size: float, accuracy: float, stderr: float | None = None) -> Point:
    return Point(1, [], {"bytes": [size, None], "accuracy": [accuracy, stderr]})


@pytest.fixture(params=["journal", "sqlite"])
def place(request, tmp_path: Path) -> str | None:
    """Name a storage by URL; None is the journal in the folder."""
    return f"sqlite:///{tmp_path / 'study.db'}" if request.param == "sqlite" else None


def storage_at(place: str | None, folder: Path) -> BaseStorage:
    return open_storage(place, folder)


def opened(place: str | None, folder: Path) -> optuna.Study:
    """Open the study anew, as another driver does."""
    storage = storage_at(place, folder)
    return optuna.create_study(study_name="s", storage=storage, directions=list(WAYS.values()), load_if_exists=True)


def test_two_drivers_and_a_later_one_decide_by_the_same_rungs(place, tmp_path) -> None:
    drivers = [opened(place, tmp_path) for _ in range(2)]
    stopping = [EarlyStopping(study, RULE, WAYS) for study in drivers]
    alone = optuna.create_study(directions=list(WAYS.values()))
    judged_alone = EarlyStopping(alone, RULE, WAYS)
    rng = np.random.default_rng(5)
    for number in range(24):
        values = rng.random(2)
        trial, copy = drivers[number % 2].ask(), alone.ask()
        found = stopping[number % 2].stops(trial, 0, point(*values, 0.01))
        assert found == judged_alone.stops(copy, 0, point(*values, 0.01))
    kept = [[trial.user_attrs[RUNGS] for trial in study.get_trials()] for study in (*drivers, alone)]
    assert kept[0] == kept[1] == kept[2]
    verdicts = [rungs[0]["passed"] is None for rungs in kept[0]]
    assert 0 < sum(verdicts) < 22
    later = opened(place, tmp_path)
    found = EarlyStopping(later, RULE, WAYS).stops(later.ask(), 0, point(0.5, 0.5))
    assert found == judged_alone.stops(alone.ask(), 0, point(0.5, 0.5))


def test_of_two_at_once_neither_overlooks_the_other(place, tmp_path, monkeypatch) -> None:
    """Each writes before it reads: where both write first, both see two trials."""
    one, two = (opened(place, tmp_path) for _ in range(2))
    first, second = Rungs(one, RULE.low, 2), Rungs(two, RULE.low, 2)
    mine, theirs = one.ask(), two.ask()
    seen = []
    real = Rungs._refresh

    def refresh(self: Rungs) -> None:
        if self is first and not seen:
            seen.append(second.enter(theirs, [2.0, 0.2], [0.0, 0.0]))
        real(self)

    monkeypatch.setattr(Rungs, "_refresh", refresh)
    assert first.enter(mine, [1.0, 0.1], [0.0, 0.0]) == [[2.0, 0.2]]
    assert seen == [[[1.0, 0.1]]]


def test_a_retried_trial_keeps_the_rungs_it_passed_and_is_counted_once() -> None:
    study = optuna.create_study(directions=list(WAYS.values()))
    stopping = EarlyStopping(study, RULE, WAYS)
    study.enqueue_trial({"x": 1})
    trial = study.ask({"x": optuna.distributions.IntDistribution(1, 3)})
    claim(study, trial)
    assert stopping.passed(trial) == 0
    assert stopping.stops(trial, 0, point(1.0, 0.5)) is None
    Rungs(study, RULE.low, 2).enter(trial, [1.0, 0.6], [0.0, 0.0])  # and its driver dies before it decides
    assert put_back(study, trial, "its process died")
    again = study.ask({"x": optuna.distributions.IntDistribution(1, 3)})
    assert again.params == {"x": 1}
    assert stopping.passed(again) == 1
    other = study.ask()
    assert Rungs(study, RULE.low, 2).enter(other, [9.0, 0.1], [0.0, 0.0]) == [[1.0, 0.5]]
    assert [rung["values"] for rung in again.user_attrs[RUNGS]] == [[1.0, 0.5]]
    assert stopping.stops(again, 1, point(1.0, 0.6)) is None
    assert stopping.passed(again) == 2


def test_one_that_stopped_and_one_that_failed_later_stay_in_their_rungs() -> None:
    study = optuna.create_study(directions=list(WAYS.values()))
    rungs = Rungs(study, RULE.low, 2)
    for number, state in enumerate(("early-stopped", "failed")):
        trial = study.ask()
        rungs.enter(trial, [float(number), 0.5], [0.0, 0.0])
        abandon(study, trial, [], Ended(number, state, "why"), {})
    assert Rungs(study, RULE.low, 2).enter(study.ask(), [9.0, 0.5], [0.0, 0.0]) == [[0.0, 0.5], [1.0, 0.5]]


def test_values_that_are_not_finite_and_unknown_errors_are_kept_as_such() -> None:
    study = optuna.create_study(directions=list(WAYS.values()))
    rungs = Rungs(study, RULE.low, 2)
    rungs.enter(study.ask(), [np.inf, 0.5], [0.0, 0.0])
    (other,) = rungs.enter(study.ask(), [1.0, 0.5], [0.0, 0.0])
    assert np.isnan(other[0])
    assert other[1] == 0.5
    stopping = EarlyStopping(study, Halving((0.25, 0.5, 1.0), grace=1), WAYS)
    assert stopping.stops(study.ask(), 0, point(2.0, 0.4, float("nan"))) is not None, "nobody knows it: no luck granted"
    assert stopping.stops(study.ask(), 0, point(2.0, 0.4, 0.2)) is None


def test_rungs_of_other_fidelities_or_objectives_are_refused() -> None:
    study = optuna.create_study(directions=list(WAYS.values()))
    Rungs(study, [0.25], 2).enter(study.ask(), [1.0, 0.5], [0.0, 0.0])
    with pytest.raises(SweepError, match=r"other fidelities or objectives: 2 values at fidelities \[0\.25\]"):
        Rungs(study, [0.5], 2)
    with pytest.raises(SweepError, match=r"not 3 at \[0\.25\]"):
        EarlyStopping(study, Halving((0.25, 1.0)), {**WAYS, "latency": "minimize"})
    assert Rungs(study, [0.25, 0.5], 2).enter(study.ask(), [1.0, 0.5], [0.0, 0.0]) == [[1.0, 0.5]], "one more is none"


SPACE = {"x": IntRange(0, 40, neutral=0)}


def measure(knobs, share):
    quality = ((knobs["x"] * 17) % 41) / 41
    return {"bytes": float(knobs["x"]), "accuracy": quality * (0.5 + share / 2)}


DRIVES = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_rungs import SPACE, WAYS, measure, storage_at
from sweeps.search.execution.halving import Halving
from sweeps.search.function import search

def slow(knobs, share):
    time.sleep(0.02)
    return measure(knobs, share)

url = None if sys.argv[1] == "journal" else sys.argv[1]
storage = storage_at(url, Path(sys.argv[2]))
time.sleep(max(0.0, float(sys.argv[4]) - time.time()))
search(SPACE, slow, WAYS, None, 30, storage=storage, fidelities=Halving((0.25, 1.0), grace=4, z=0.0), start=[])
"""


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_two_processes_at_once_share_the_rungs_of_one_study(place, tmp_path) -> None:
    given = [place or "journal", str(tmp_path), str(Path(__file__).parent), str(time.time() + 12)]
    command = [sys.executable, "-W", "ignore", "-c", DRIVES, *given]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for process in [subprocess.Popen(command, **pipes) for _ in range(2)]:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    study = optuna.load_study(study_name="search", storage=storage_at(place, tmp_path))
    asked = [trial for trial in study.get_trials() if RUNGS in trial.user_attrs]
    assert len({trial.user_attrs[OWNER]["pid"] for trial in asked}) == 2, "both took part"
    assert 30 <= len(asked) <= 31
    early = [record for record in records(study) if record.state == "early-stopped"]
    graced = [trial for trial in asked if "among the first" in str(trial.user_attrs[RUNGS][0]["passed"])]
    assert early
    assert len(graced) <= 4, "two rungs of their own would let eight through"
    before = {trial.number: trial.user_attrs[RUNGS] for trial in asked}
    rule = Halving((0.25, 1.0), grace=4, z=0.0)
    search(SPACE, measure, WAYS, None, 34, storage=storage_at(place, tmp_path), fidelities=rule, start=[])
    study = optuna.load_study(study_name="search", storage=storage_at(place, tmp_path))
    assert {number: study.trials[number].user_attrs[RUNGS] for number in before} == before
    later = [trial.user_attrs[RUNGS][0] for trial in study.trials[max(before) + 1 :] if RUNGS in trial.user_attrs]
    assert later
    assert not any("among the first" in str(rung["passed"]) for rung in later)
