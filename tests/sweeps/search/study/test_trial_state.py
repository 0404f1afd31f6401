"""States of a trial: words, old words, and the states of Optuna."""

import json

import optuna
import pytest

from analysis.renamed_states import RENAMED
from sweeps.search.study.point import Ended
from sweeps.search.study.trial_state import TrialState, of_optuna, to_optuna


def test_a_state_is_the_word_a_user_types() -> None:
    assert f"{TrialState.EARLY_STOPPED}" == "early-stopped"
    assert TrialState("early-stopped") is TrialState.EARLY_STOPPED
    assert json.loads(json.dumps({"state": TrialState.DUPLICATE})) == {"state": "duplicate"}


@pytest.mark.parametrize("old", RENAMED)
def test_a_word_of_older_versions_is_one_of_today_s(old: str) -> None:
    assert TrialState(old).value == RENAMED[old]
    assert old not in [state.value for state in TrialState]


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'lost' is not a valid TrialState"):
        TrialState("lost")
    with pytest.raises(ValueError, match="'halted' is not a valid TrialState"):
        Ended(0, "halted")  # type: ignore[arg-type]


def test_the_diagram_names_every_state() -> None:
    assert all(f" {state}" in str(TrialState.__doc__) for state in TrialState)


def test_optuna_keeps_a_state_of_its_own_for_each() -> None:
    kept = {state: to_optuna(state) for state in TrialState}
    for state in (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.EARLY_STOPPED):
        assert of_optuna(kept[state]) == state
    assert kept[TrialState.DUPLICATE] == optuna.trial.TrialState.COMPLETE, "the sampler learns of it"
    assert {kept[state] for state in TrialState if state.is_failure} == {optuna.trial.TrialState.FAIL}
    assert {kept[state].is_finished() for state in list(TrialState)[2:]} == {True}
    assert {of_optuna(state) for state in optuna.trial.TrialState} <= set(TrialState)
    screened = {known: to_optuna(TrialState.INFEASIBLE, screened=True, constrained=known) for known in (True, False)}
    assert screened == {True: optuna.trial.TrialState.PRUNED, False: optuna.trial.TrialState.FAIL}


def test_a_state_has_a_result_or_is_a_failure_or_neither() -> None:
    assert [state for state in TrialState if state.has_result] == ["complete", "duplicate"]
    assert [state for state in TrialState if state.is_failure] == ["infeasible", "failed"]
