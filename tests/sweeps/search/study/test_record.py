"""What is written of a trial is read back equal, and what older versions wrote is read in the words of today."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from kmr.core import IntRange
from sweeps import search
from sweeps.search.problem import Problem
from sweeps.search.study.journal import JOURNAL, journal_to_read
from sweeps.search.study.point import Ended, Point, Recalled
from sweeps.search.study.proposal import (
    HowProposed,
    Untrained,
    count_rejected,
    count_untrained,
    how_proposed,
    keep_proposal,
    untrained_of,
)
from sweeps.search.study.record import (
    Record,
    abandon,
    abandon_other,
    add_copy,
    add_intermediate,
    begun_by,
    count_states,
    finish,
    is_asked,
    is_intermediate,
    records,
    screen,
    state_of,
    was_tried,
)
from sweeps.search.study.storage import open_storage
from sweeps.search.study.trial_state import TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = {"x": IntRange(0, 19, neutral=0)}
PROBLEM = Problem(SPACE, {"cost": "minimize", "quality": "maximize"}, {"cost": 12.5})
POINT = Point(1, [["x", 3]], {"cost": [3.0, None], "quality": [7.0, 0.1]}, {"meter": 0.5}, ["a note"], "key")
OLD = Path(__file__).with_name("old_study.journal")


def new_study() -> optuna.Study:
    return optuna.create_study(directions=["minimize", "maximize"])


def ask(study: optuna.Study) -> optuna.Trial:
    return study.ask({"x": IntDistribution(0, 19)})


texts = st.text(min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(
    state=st.sampled_from(["complete", "duplicate", "failed", "infeasible", "early-stopped", "retried"]),
    error=st.none() | texts, seconds=st.floats(0, 1e6), overhead=st.floats(0, 1e6), notes=st.lists(texts, max_size=2),
    hits=st.integers(0, 9), points=st.integers(0, 2), other=st.booleans(),
)  # fmt: skip
def test_a_record_comes_back_as_it_was_written(state, error, seconds, overhead, notes, hits, points, other) -> None:
    study = new_study()
    trial = ask(study)
    ended = Ended(0, state, error, seconds, overhead, tuple(notes), Recalled(hits, 1, 0.5))
    measured = [POINT] * points
    origin = 7 if state == "duplicate" else None
    if TrialState(state).has_result:
        finish(study, trial, PROBLEM, measured, POINT, ended, origin)
    elif other:
        abandon_other(study, study.get_trials()[0], measured, ended)
    else:
        abandon(study, trial, measured, ended, {"cost": -1.0})
    (record,) = records(study)
    assert record == Record(
        0, trial.params, TrialState(state), tuple(measured), tuple(notes), error, record.finished, seconds, overhead,
        origin, Recalled(hits, 1, 0.5), 0,
    )  # fmt: skip
    assert record.finished.endswith("+00:00")
    (frozen,) = study.trials
    assert state_of(frozen) == state
    assert was_tried(frozen) == (state != "retried")
    assert frozen.values == ([3.0, 7.0] if TrialState(state).has_result else None)
    if not (other and not TrialState(state).has_result):
        assert frozen.constraints == {"cost": -9.5 if TrialState(state).has_result else -1.0}


@pytest.mark.parametrize(
    ("state", "violations", "told"),
    [
        ("infeasible", {"cost": 0.5}, "PRUNED"), ("infeasible", None, "FAIL"), ("duplicate", None, "FAIL"),
        ("early-stopped", {"cost": -1.0}, "PRUNED"), (None, None, "FAIL"),
    ],
)  # fmt: skip
def test_a_trial_that_ends_before_training_says_how(state, violations, told) -> None:
    study = new_study()
    how = HowProposed(3, True)
    screen(study, ask(study), Untrained(state and TrialState(state), "the reason"), how, violations)
    (frozen,) = study.trials
    assert untrained_of(frozen) == (state, "the reason")
    assert (how_proposed(frozen), frozen.state.name) == (how, told)
    assert state_of(frozen) == (state or "duplicate")
    assert frozen.constraints == (violations or {})
    assert not is_asked(frozen)
    assert not was_tried(frozen)
    assert records(study) == []
    assert count_untrained(study) == ({state: 1} if state else {})
    assert count_rejected(study) == 3


def test_how_a_trial_was_proposed_is_written_where_it_says_something() -> None:
    study = new_study()
    first, second = ask(study), ask(study)
    keep_proposal(first, HowProposed())
    keep_proposal(second, HowProposed(2))
    assert [how_proposed(trial) for trial in study.trials] == [HowProposed(), HowProposed(2)]
    assert [len(trial.user_attrs) for trial in study.trials] == [0, 1]
    assert [untrained_of(trial) for trial in study.trials] == [None, None]


def test_models_on_the_way_and_copies_are_told_with_what_they_are() -> None:
    study = new_study()
    add_intermediate(study, PROBLEM, POINT, {"x": 0}, -1, "me")
    add_intermediate(study, PROBLEM, POINT, {"x": 1}, 4)
    record = Record(9, {"x": 3}, TrialState.DUPLICATE, (POINT,), finished="then", duplicate_of=8)
    add_copy(study, PROBLEM, record, [3.0, 7.0], {"x": 3}, {"number": 0}, None)
    add_copy(study, PROBLEM, record, [3.0, 7.0], {"x": 4}, {"number": 1}, 0)
    assert [is_intermediate(trial) for trial in study.trials] == [True, True, False, False]
    assert begun_by(study) == ["me"]
    assert [(r.number, r.state, r.duplicate_of, r.finished) for r in records(study)] == [
        (0, "complete", None, "then"), (1, "duplicate", 0, "then"),
    ]  # fmt: skip
    assert all(trial.constraints == {"cost": -9.5} for trial in study.trials)


def test_a_trial_without_a_record_failed_and_one_added_by_hand_is_a_duplicate() -> None:
    study = new_study()
    study.tell(ask(study), state=optuna.trial.TrialState.FAIL)
    study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    study.enqueue_trial({"x": 1})
    study.enqueue_trial({"x": 2})
    ask(study)
    assert [state_of(trial) for trial in study.trials] == ["failed", "duplicate", "running", "waiting"]
    assert count_states(study) == {"failed": 1, "running": 1, "waiting": 1}
    assert [record.error for record in records(study)] == ["left no record"]


def old_study(folder: Path) -> optuna.Study:
    """Open a study that the version before these words wrote."""
    shutil.copy(OLD, folder / JOURNAL)
    return optuna.load_study(study_name="old", storage=journal_to_read(folder))


def test_a_study_of_the_version_before_is_read(tmp_path) -> None:
    study = old_study(tmp_path)
    assert b'"pruned"' in OLD.read_bytes()
    assert [(record.number, record.state, record.duplicate_of) for record in records(study)] == [
        (0, "retried", None), (1, "complete", None), (2, "complete", None), (3, "complete", None), (4, "duplicate", 3),
        (5, "early-stopped", None), (6, "failed", None), (10, "early-stopped", None),
    ]  # fmt: skip
    assert count_untrained(study) == {"infeasible": 2}
    reasons = [untrained_of(trial) for trial in study.trials[7:9]]
    assert reasons == [("infeasible", "infeasible"), ("infeasible", "ValueError: no such layer")]


def test_a_study_of_the_version_before_is_continued(tmp_path) -> None:
    old_study(tmp_path)

    def static(params: Any) -> dict[str, float]:
        return {"cost": float(params["x"])}

    def evaluate(params: Any, share: float) -> dict[str, float]:
        return {"quality": float(10 - params["x"])}

    found = search(
        SPACE, evaluate, PROBLEM.objectives, PROBLEM.limits, 7, storage=open_storage(None, tmp_path), name="old",
        canonical=lambda params: params["x"], static_costs=static, screening=None, fidelities=(0.5, 1.0),
    )  # fmt: skip
    assert found.counts.evaluated == 7
    assert (found.counts.early_stopped, found.counts.complete) == (2, 4)
    assert [trial.state for trial in itertools.islice(found.records, 6)] == [
        "retried", "complete", "complete", "complete", "duplicate", "early-stopped",
    ]  # fmt: skip
