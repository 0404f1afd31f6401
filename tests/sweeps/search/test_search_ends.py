"""What goes wrong in a search and around it: nothing that was trained is lost, and nothing waits for ever."""

import itertools
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import sqlalchemy.exc
import torch
from functions import readings
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kmr.core import Choice, Direction, IntRange, Reading
from sweeps import Search, Stop, search
from sweeps.errors import SweepError
from sweeps.search.execution.driver import MOST_EQUAL_FAILURES, drive
from sweeps.search.execution.interrupts import Interrupts
from sweeps.search.space import distributions
from sweeps.search.study.attributes import OWNER, PROBLEM, RETRY_OF
from sweeps.search.study.lease import claim, put_back
from sweeps.search.study.point import Ended

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = {"width": IntRange(1, 12, neutral=12), "bits": Choice((32, 8, 4, 2), neutral=32)}
BOTH = {"bytes": "minimize", "accuracy": "maximize"}


class AtOnce:
    """Takes three jobs and tells of all of them at once."""

    def __init__(self, work):
        self.does, self.jobs = work, []

    @property
    def free(self):
        return 3 - len(self.jobs)

    def submit(self, job):
        self.jobs.append(job)

    def work(self, tell):
        while self.jobs:
            tell(self.does(self.jobs.pop(0), tell))

    def close(self):
        self.jobs.clear()


def states(study):
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_what_ended_beside_a_trial_whose_telling_breaks_is_told_too():
    storage = optuna.storages.InMemoryStorage()

    def break_once(record):
        if record.number == 0:
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        search(SPACE, readings, BOTH, None, 3, storage=storage, executor=AtOnce, on_trial=break_once)
    study = optuna.load_study(study_name="search", storage=storage)
    assert states(study) == ["COMPLETE"] * 3 + ["WAITING"] * (len(study.trials) - 3)


@pytest.mark.parametrize("limits", [{"accuracy": 2.0}, None])
def test_a_window_without_any_model_that_fits_ends_it(limits):
    def evaluate(knobs):
        if limits is None:
            raise ValueError(f"of {knobs['width'] * 'x'}")
        return readings(knobs)

    found = search(SPACE, evaluate, BOTH, limits, 40, stop=Stop(window=3))
    assert len(found.records) == 4
    assert "raised the hypervolume by 0" in found.ended


def test_a_window_counts_the_first_model_that_fits():
    accuracies = itertools.chain([0.0, 0.0], itertools.repeat(0.9))
    found = search(
        SPACE, lambda knobs: {"bytes": 1.0, "accuracy": next(accuracies)}, BOTH, {"accuracy": 0.5}, 40,
        stop=Stop(window=2, gain=0.01),
    )  # fmt: skip
    assert [record.is_feasible for record in found.records] == [False, False, True, True, True]


class Breaks(optuna.samplers.RandomSampler):
    broken = False

    def sample_relative(self, study, trial, search_space):
        if not Breaks.broken and trial.number == 2:
            Breaks.broken = True
            raise RuntimeError("the sampler")
        return super().sample_relative(study, trial, search_space)

    def infer_relative_search_space(self, study, trial):
        return {}


def test_a_draw_that_breaks_leaves_no_trial_running():
    Breaks.broken = False
    settings = {"storage": optuna.storages.InMemoryStorage(), "start": [], "sampler": Breaks(seed=0)}
    with pytest.raises(RuntimeError, match="the sampler"):
        search(SPACE, readings, BOTH, None, 6, **settings)
    study = optuna.load_study(study_name="search", storage=settings["storage"])
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert search(SPACE, readings, BOTH, None, 6, **settings).counts.complete == 6


def test_a_trial_drawn_while_ctrl_c_comes_is_put_back():
    def costs(knobs):
        if knobs["width"] == 3:
            signal.raise_signal(signal.SIGINT)
        return {"bytes": knobs["width"] * knobs["bits"] / 8}

    settings = {"storage": optuna.storages.InMemoryStorage(), "start": [{"width": 3, "bits": 4}]}
    run = Search(SPACE, BOTH, static_costs=costs, screening=None, **settings)
    with pytest.raises(KeyboardInterrupt):
        run.ask()
    assert states(run.study) == ["FAIL", "WAITING"]
    assert run.result.counts.evaluated == 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = search(SPACE, readings, BOTH, None, 3, **settings)
    assert found.counts.complete == 3
    assert dict(found.records[1].params) == {"width": 3, "bits": 4}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_after_five_equal_failures_is_judged_by_its_own(workers, forked_workers):
    def broken(knobs):
        raise RuntimeError("no data")

    settings = {"storage": optuna.storages.InMemoryStorage(), "trials": 9}
    with pytest.raises(SweepError, match="trials failed the same way"):
        search(SPACE, broken, BOTH, **settings)
    found = search(SPACE, readings, BOTH, workers=workers, **settings)
    assert (found.counts.failed, found.counts.complete) == (MOST_EQUAL_FAILURES, 9 - MOST_EQUAL_FAILURES)


@pytest.mark.parametrize(
    ("stderr", "kept"),
    [(np.float32(0.5), 0.5), (torch.tensor(0.5), 0.5), (np.int64(1), 1.0), (np.array(0.5), 0.5), (float("nan"), None)],
)
def test_a_standard_error_of_any_kind_of_number_is_kept(tmp_path, stderr, kept):
    found = search(
        SPACE, lambda knobs: {"loss": Reading(np.float32(0.5), stderr)}, {"loss": "minimize"}, trials=1,
        storage=f"sqlite:///{tmp_path / 'study.db'}",
    )  # fmt: skip
    assert found.front[0].stderrs == ({} if kept is None else {"loss": kept})


def test_searches_that_share_a_study_train_no_model_twice():
    start = [{"width": 12, "bits": 8}, {"width": 12, "bits": 4}]
    settings = {
        "storage": optuna.storages.InMemoryStorage(), "start": start,
        "canonical": lambda knobs: (knobs["width"], knobs["bits"] > 8),
    }  # fmt: skip
    one, two = Search(SPACE, BOTH, **settings), Search(SPACE, BOTH, **settings)
    task = one.ask()
    one.tell(task, readings(task.params))
    assert dict(two.ask().params) not in start
    assert [record.state for record in two.result.records] == ["complete", "duplicate"]


@pytest.mark.parametrize("start", [None, [{"width": 3, "bits": 8}] * 3])
def test_a_space_of_one_vector_ends_when_that_is_known(start):
    space = {"width": IntRange(3, 3, neutral=3), "bits": Choice((8,), neutral=8)}
    found = search(space, readings, BOTH, start=start)
    assert found.counts.complete == 1
    assert found.ended == "no new feasible vector is left"
    found = search(space, lambda knobs: 1 / 0, BOTH, start=start)
    assert found.counts.failed == 1
    assert found.ended is not None


def test_a_study_kept_in_another_way_is_refused():
    storage = optuna.storages.InMemoryStorage()
    search(SPACE, readings, BOTH, trials=2, storage=storage)
    study = optuna.load_study(study_name="search", storage=storage)
    study.set_user_attr(PROBLEM, {**study.user_attrs[PROBLEM], "format": 1})
    with pytest.raises(SweepError, match="made with other format"):
        search(SPACE, readings, BOTH, trials=4, storage=storage)


def test_a_trial_added_by_hand_is_known_and_counts_for_nothing(forked_workers):
    storage = optuna.storages.InMemoryStorage()
    study = Search(SPACE, BOTH, storage=storage, start=[]).study
    added = {"width": 12, "bits": 32}
    from sweeps.search.space import distributions

    trial = optuna.trial.create_trial(params=added, distributions=distributions(SPACE), values=[48.0, 0.9])
    for _ in range(MOST_EQUAL_FAILURES):
        study.add_trial(trial)
    found = search(SPACE, readings, BOTH, trials=47, storage=storage, workers=2)
    assert (found.counts.complete, found.counts.failed) == (47, 0)
    assert added not in [dict(record.params) for record in found.records if record.state == "complete"]
    assert found.records[0].readings == {"bytes": 48.0, "accuracy": 0.9}


class Loses(AtOnce):
    """Loses its first job when there is nothing left to ask for."""

    lost = False

    def work(self, tell):
        if not self.lost:
            self.lost = True
            tell(Ended(self.jobs.pop(0).number, "retried", "its process died", 0.1))
        super().work(tell)


def test_what_is_lost_when_nothing_else_is_left_is_tried_again():
    found = search({"width": IntRange(1, 2, neutral=2)}, lambda knobs: knobs, {"width": "minimize"}, executor=Loses)
    assert sorted(record.state for record in found.records) == ["complete", "complete", "retried"]


def test_an_executor_that_cannot_even_close_leaves_no_trial_running():
    class Gone(AtOnce):
        def work(self, tell):
            raise OSError("the queue is down")

        def close(self):
            raise OSError("it still is")

    run = Search(SPACE, BOTH)
    with pytest.raises(OSError, match="it still is"):
        drive(run.ledger, 5, Gone(None), run.watcher.stopping, Interrupts(()), print, str)
    assert {record.state for record in run.result.records} == {"retried"}


def test_a_function_that_changes_its_vector_changes_nothing_else():
    seen = []

    def evaluate(knobs, share):
        seen.append(dict(knobs))
        knobs["width"] = 0
        return {"bytes": 1.0, "accuracy": 1.0}

    search(SPACE, evaluate, BOTH, trials=2, fidelities=(0.5, 1.0))
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert all(vector["width"] for vector in seen)


def test_a_task_is_told_once():
    run = Search(SPACE, BOTH)
    task = run.ask()
    run.tell(task, readings(task.params))
    with pytest.raises(SweepError, match="trial 0 is not running: it has ended already; tell each trial once"):
        run.tell(task, readings(task.params))
    run.put_back(task)
    assert [record.state for record in run.result.records] == ["complete"]


def test_a_row_of_a_data_frame_is_a_reading():
    found = search(SPACE, lambda knobs: pd.Series(readings(knobs)), BOTH, trials=2)
    assert found.counts.complete == 2


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([{"height": 1}], "start names height, not in the space: there are width, bits"),
        ([{"width": 1000, "bits": 8}], "start: width cannot be 1000: choose"),
        ([{"width": 2, "bits": 5}], "start: bits cannot be 5: choose one of 32, 8, 4, 2"),
    ],
)
def test_a_start_that_is_not_in_the_space_is_refused(start, message):
    with pytest.raises(SweepError, match=message):
        search(SPACE, readings, BOTH, start=start)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers_that_go_through_a_fixed_sequence_go_through_it():
    listed = {"width": [1, 6, 12], "bits": [32, 4]}
    found = search(SPACE, readings, BOTH, sampler=optuna.samplers.GridSampler(listed, seed=0))
    wanted = set(itertools.product(*listed.values()))
    assert {tuple(record.params.values()) for record in found.records} == wanted
    assert found.counts.complete == 6
    found = search({"width": SPACE["width"]}, readings_of_width, BOTH, sampler=optuna.samplers.QMCSampler(seed=0))
    assert found.counts.complete == 12
    assert found.ended is not None


def readings_of_width(knobs):
    return readings({**knobs, "bits": 8})


def test_a_search_within_a_search_and_in_a_thread():
    def inner(knobs):
        found = search(SPACE, readings, BOTH, trials=2, start=[{**knobs, "bits": 8}])
        return found.records[0].readings

    found = search({"width": SPACE["width"]}, inner, BOTH, trials=3)
    assert found.counts.complete == 3
    kept = []
    thread = threading.Thread(target=lambda: kept.append(search(SPACE, readings, BOTH, trials=3)))
    thread.start()
    thread.join()
    assert kept[0].counts.complete == 3


def test_ctrl_c_in_a_search_within_a_search_puts_both_trials_back():
    storages = [optuna.storages.InMemoryStorage() for _ in range(2)]

    def interrupted(knobs):
        signal.raise_signal(signal.SIGINT)
        return readings(knobs)

    def inner(knobs):
        return search(SPACE, interrupted, BOTH, trials=2, storage=storages[1]).records[0].readings

    with pytest.raises(KeyboardInterrupt):
        search({"width": SPACE["width"]}, inner, BOTH, trials=3, storage=storages[0])
    for storage in storages:
        assert states(optuna.load_study(study_name="search", storage=storage))[0] == "FAIL"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_executor_that_tells_of_no_model_fails_the_trial():
    class Silent(AtOnce):
        def work(self, tell):
            tell(Ended(self.jobs.pop(0).number, "complete"))

    with pytest.raises(SweepError, match="the executor reported no measured model"):
        search(SPACE, readings, BOTH, trials=8, executor=Silent)


def test_what_another_search_is_at_is_not_begun_again():
    settings = {"storage": optuna.storages.InMemoryStorage(), "start": []}
    one, two = Search(SPACE, BOTH, **settings), Search(SPACE, BOTH, **settings)
    vector = {"width": 5, "bits": 4}
    for _ in range(2):
        one.study.enqueue_trial(vector)
    task = one.ask()
    assert dict(task.params) == vector
    assert dict(two.ask().params) != vector
    one.tell(task, readings(vector))
    dropped = two.result.records[1]
    assert (dropped.state, dropped.error) == ("duplicate", "trial 0 is evaluating the same model")
    assert one.result.counts.complete == 1


def test_what_two_drivers_queued_again_is_tried_once():
    settings = {"storage": optuna.storages.InMemoryStorage(), "start": []}
    run = Search(SPACE, BOTH, **settings)
    lost = run.ask()
    vector = dict(lost.params)
    run.put_back(lost)
    run.study.enqueue_trial(vector, user_attrs={RETRY_OF: lost.trial.number})
    task = run.ask()
    assert dict(task.params) == vector
    run.tell(task, readings(vector))
    assert dict(run.ask().params) != vector
    assert run.result.records[2].error == "trial 0 was queued twice for a retry"
    with pytest.raises(UpdateFinishedTrialError):
        put_back(run.study, lost.trial, "its process ended first")


def test_a_study_is_told_from_one_of_another_model():
    storage = optuna.storages.InMemoryStorage()
    search(SPACE, readings, BOTH, trials=2, storage=storage, identity={"weights": "a1"})
    with pytest.raises(SweepError, match="made with other weights: choose another name, or restore"):
        search(SPACE, readings, BOTH, trials=4, storage=storage, identity={"weights": "b2"})
    with pytest.raises(SweepError, match="made with other weights"):
        search(SPACE, readings, BOTH, trials=4, storage=storage)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"storage": "sqlite:////nowhere/x.db"}, SweepError, "storage sqlite:.* cannot be reached"),
        ({"storage": "/tmp/x.db"}, SweepError, "storage /tmp/x.db cannot be reached"),
        ({"stop": {"seconds": 3}}, SweepError, "stop must be a sweeps.Stop, not"),
        ({"budget": 3}, TypeError, r"search\(\) takes no budget: it is now trials"),
        ({"constraints": {"bytes": 3}}, TypeError, r"search\(\) takes no constraints: it is now limits"),
        ({"trails": 3}, TypeError, r"search\(\) takes no trails: did you mean trials"),
    ],
)
def test_settings_that_are_wrong_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        search(SPACE, readings, BOTH, **settings)


def test_tables_that_another_process_makes_at_the_same_moment_are_waited_for(monkeypatch, tmp_path):
    made, real = [], optuna.storages.RDBStorage

    def late(*given, **settings):
        made.append(given)
        if len(made) == 1:
            raise sqlalchemy.exc.OperationalError("CREATE TABLE", {}, Exception("table studies already exists"))
        return real(*given, **settings)

    monkeypatch.setattr("sweeps.search.study.storage.RDBStorage", late)
    monkeypatch.setattr("sweeps.search.study.storage.time.sleep", lambda seconds: None)
    found = search(SPACE, readings, BOTH, trials=2, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert (found.counts.complete, len(made)) == (2, 2)


SMALL = {"a": IntRange(0, 1, neutral=0), "b": IntRange(0, 2, neutral=0)}
BY_BOTH: dict[str, Direction] = {"x": "minimize", "y": "maximize"}


def die_at_one_left(url: str, tried: list[dict[str, Any]]) -> dict[str, int]:
    """Let another driver take a vector that has not been tried, and die at it; return the vector."""
    left = next({"a": a, "b": b} for a in (0, 1) for b in (0, 1, 2) if {"a": a, "b": b} not in tried)
    other = optuna.load_study(study_name="search", storage=url)
    other.enqueue_trial(left)
    trial = other.ask(distributions(SMALL))
    claim(other, trial)
    owner = other.get_trials()[trial.number].user_attrs[OWNER]
    trial.set_user_attr(OWNER, {**owner, "born": "0"})
    return left


def test_where_nothing_else_is_left_what_a_dead_driver_was_at_is_tried(tmp_path: Path) -> None:
    url, tried = f"sqlite:///{tmp_path / 'study.db'}", list[dict[str, Any]]()

    def evaluate(params: Mapping[str, Any]) -> dict[str, float]:
        tried.append(dict(params))
        if len(tried) == 2:
            die_at_one_left(url, tried)
        return {"x": float(params["a"]), "y": float(params["b"])}

    found = search(SMALL, evaluate, BY_BOTH, trials=100, storage=url, start=[], screening=None)
    assert len(tried) == sum(record.state == "complete" for record in found.records) == 6
    states = [trial.state for trial in optuna.load_study(study_name="search", storage=url).get_trials()]
    assert TrialState.RUNNING not in states


def test_ask_takes_up_what_a_dead_driver_was_at(tmp_path: Path) -> None:
    url, tried = f"sqlite:///{tmp_path / 'study.db'}", list[dict[str, Any]]()
    asked = Search(SMALL, BY_BOTH, None, 100, storage=url, start=[], screening=None)
    left: dict[str, int] = {}
    while (task := asked.ask()) is not None:
        tried.append(dict(task.params))
        left = left or die_at_one_left(url, tried)
        asked.tell(task, {"x": 0.0, "y": float(len(tried))})
    assert tried[-1] == left
    assert len(tried) == 6
