import itertools
import signal
import subprocess
import sys

import numpy as np
import optuna
import pandas as pd
import pytest

from kmr.core import Choice, FloatRange, IntRange
from sweeps import Search, search
from sweeps.errors import SweepError
from sweeps.search.execution.driver import MOST_EQUAL_FAILURES
from sweeps.search.study.lease import MOST_ATTEMPTS
from sweeps.search.watcher import Watcher

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = {"width": IntRange(1, 12, neutral=12), "bits": Choice((32, 8, 4, 2), neutral=32)}
BOTH = {"bytes": "minimize", "accuracy": "maximize"}


def size(knobs):
    return {"bytes": knobs["width"] * knobs["bits"] / 8}


def accuracy(knobs):
    return {"accuracy": 1 - 1 / (1 + knobs["width"]) - 0.3 / knobs["bits"]}


def readings(knobs):
    return {**size(knobs), **accuracy(knobs)}


def rows():
    return {vector: readings(dict(zip(SPACE, vector, strict=True))) for vector in
            itertools.product(range(1, 13), (32, 8, 4, 2))}  # fmt: skip


def test_importing_the_package_does_not_import_the_search():
    code = "import sweeps, sys; assert 'optuna' not in sys.modules; assert 'torch' not in sys.modules; sweeps.search"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_front_is_found_under_a_limit_on_a_static_cost_and_nothing_else_is_trained():
    trained = []

    def evaluate(knobs):
        trained.append((knobs["width"], knobs["bits"]))
        return accuracy(knobs)

    found = search(SPACE, evaluate, BOTH, {"bytes": 6.0}, trials=15, static_costs=size)
    assert len(trained) == len(set(trained)) == found.counts.complete == found.counts.evaluated == 15
    assert all(width * bits / 8 <= 6 for width, bits in trained)
    assert found.counts.infeasible == sum(record.state == "infeasible" for record in found.records) > 0
    assert found.counts.rejected > 0
    front = [tuple(record.readings.values()) for record in found.front]
    assert front == sorted(front)
    assert all(after[1] > before[1] for before, after in itertools.pairwise(front))


def test_the_neutral_vector_and_each_knob_alone_come_first():
    found = search(SPACE, readings, BOTH, trials=56)
    first = [(record.params["width"], record.params["bits"]) for record in found.records[:7]]
    assert first == [(12, 32), (8, 32), (5, 32), (1, 32), (12, 8), (12, 4), (12, 2)]


@pytest.mark.parametrize("frame", [False, True])
def test_a_table_stands_in_for_training(frame):
    table = rows()
    if frame:
        table = pd.DataFrame([{**dict(zip(SPACE, key, strict=True)), **row, "note": "x"} for key, row in table.items()])
    found = search(SPACE, table, BOTH, {"bytes": 6.0}, trials=10, static_costs=["bytes"])
    assert found.counts.complete == 10
    assert all(record.readings == readings(record.params) for record in found.records if record.state == "complete")


def test_a_space_with_nothing_left_ends_before_all_trials():
    found = search(SPACE, readings, BOTH, trials=100, static_costs=size)
    assert found.counts.complete == 48
    exact = [
        row
        for row in rows().values()
        if not any(
            o != row and o["bytes"] <= row["bytes"] and o["accuracy"] >= row["accuracy"] for o in rows().values()
        )
    ]
    assert len(found.front) == len({row["bytes"] for row in exact})


def test_a_limit_on_what_is_only_known_after_training_is_told_and_kept_off_the_front():
    found = search(SPACE, readings, BOTH, {"accuracy": 0.7}, trials=20)
    assert found.front
    assert all(record.readings["accuracy"] >= 0.7 for record in found.front)
    complete = found.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert all(t.constraints == {"accuracy": pytest.approx(0.7 - t.values[1])} for t in complete)


def test_failures_and_numbers_that_are_none_fail_their_trial_alone():
    calls = itertools.count()

    def evaluate(knobs):
        match next(calls) % 4:
            case 0:
                raise RuntimeError("out\nof memory")
            case 1:
                return {"bytes": 1.0, "accuracy": float("nan")}
            case 2:
                return {"bytes": 1.0}
        return readings(knobs)

    seen = []
    found = search(SPACE, evaluate, BOTH, trials=12, on_trial=seen.append)
    assert found.counts.failed == 9
    assert found.counts.complete == 3
    assert {record.error for record in found.records if record.state == "failed"} == {
        "RuntimeError: out of memory",
        "accuracy is nan",
        "no reading of accuracy: evaluate returned ['bytes']",
    }
    assert list(found.records) == seen
    assert all(np.isfinite(t.values).all() for t in found.study.trials if t.values)


def test_a_search_that_only_fails_stops():
    with pytest.raises(
        SweepError, match=f"the last {MOST_EQUAL_FAILURES} trials failed the same way.*KeyError: 'depth'"
    ):
        search(SPACE, lambda knobs: {"bytes": knobs["depth"]}, BOTH)


def test_a_study_goes_on_to_the_total_after_it_was_stopped(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    vectors = []

    def evaluate(knobs):
        if len(vectors) == 5:
            vectors.append("stopped")
            raise KeyboardInterrupt
        vectors.append((knobs["width"], knobs["bits"]))
        return readings(knobs)

    settings = {"storage": storage, "static_costs": size, "trials": 9}
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, evaluate, BOTH, **settings)
    stopped = Search(SPACE, BOTH, storage=storage, static_costs=size, trials=9).result
    assert stopped.counts.complete == 5
    assert stopped.records[-1].state == "retried"
    found = search(SPACE, evaluate, BOTH, **settings)
    assert found.counts.complete == 9
    vectors.remove("stopped")
    assert len(vectors) == len(set(vectors)) == 9
    assert vectors[5] == (stopped.records[-1].params["width"], stopped.records[-1].params["bits"])
    again = search(SPACE, evaluate, BOTH, **settings)
    assert again.counts == found.counts
    assert len(search(SPACE, evaluate, BOTH, **{**settings, "trials": 12}).records) > len(found.records)
    with pytest.raises(SweepError, match="made with other space"):
        search({**SPACE, "bits": Choice((32, 8), 32)}, evaluate, BOTH, **settings)


def test_what_a_dead_process_left_running_comes_first():
    storage = optuna.storages.InMemoryStorage()
    left = Search(SPACE, BOTH, storage=storage, start=[]).ask().trial.params
    run = Search(SPACE, BOTH, storage=storage)
    assert run.ask().trial.params == left
    assert not [t for t in run.study.trials if t.state == optuna.trial.TrialState.RUNNING and t.number == 0]


def test_a_trial_this_process_is_at_is_left_alone():
    settings = {"storage": optuna.storages.InMemoryStorage(), "start": []}
    first = Search(SPACE, BOTH, **settings)
    proposal = first.ask()
    second = Search(SPACE, BOTH, **settings)
    assert second.ask().trial.params != proposal.trial.params
    assert first.tell(proposal, readings(proposal.trial.params)).state == "complete"
    assert [record.state for record in second.result.records] == ["complete"]


ASKS_AND_WAITS = """
import sys
from kmr.core import IntRange
from sweeps import Search

run = Search({"width": IntRange(1, 12, neutral=12)}, {"bytes": "minimize"}, storage=sys.argv[1], start=[{"width": 7}])
proposal = run.ask()
print("asked", flush=True)
sys.stdin.readline()
print(run.tell(proposal, {"bytes": 1.0}).state, flush=True)
proposal = run.ask()
print("asked", flush=True)
sys.stdin.readline()
"""


def test_a_trial_of_another_process_is_left_alone_while_that_lives(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"

    def opened():
        return Search({"width": IntRange(1, 12, neutral=12)}, {"bytes": "minimize"}, storage=storage)

    command = [sys.executable, "-c", ASKS_AND_WAITS, storage]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "asked\n"
        assert [trial.state.name for trial in opened().study.trials] == ["RUNNING"]
        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == "complete\n"
        assert other.stdout.readline() == "asked\n"
        left = opened().study.trials[-1]
        assert left.state.name == "RUNNING"
        other.send_signal(signal.SIGKILL)
    run = opened()
    assert run.ask().trial.params == left.params
    assert [record.state for record in run.result.records] == ["complete", "retried"]


def test_a_vector_that_ends_its_process_every_time_is_given_up():
    settings = {"storage": optuna.storages.InMemoryStorage(), "start": [{"width": 3, "bits": 4}], "trials": 5}
    run = Search(SPACE, BOTH, **settings)
    run.put_back(run.ask())
    for _ in range(MOST_ATTEMPTS):
        assert run.ask().trial.params == {"width": 3, "bits": 4}, "to interrupt it is no attempt"
        del run
        run = Search(SPACE, BOTH, **settings)
    states = [record.state for record in run.result.records]
    assert states == [*["retried"] * MOST_ATTEMPTS, "failed"]
    assert run.result.records[-1].error == f"given up after {MOST_ATTEMPTS} attempts: its process ended first"
    trained = []
    found = search(SPACE, lambda knobs: trained.append(dict(knobs)) or readings(knobs), BOTH, **settings)
    assert (found.counts.complete, found.counts.failed) == (4, 1)
    assert {"width": 3, "bits": 4} not in trained


@pytest.mark.parametrize(
    ("owner", "name", "ends"),
    [
        (optuna.Trial, "set_user_attr", "complete"), (optuna.Trial, "set_constraint", "complete"),
        (optuna.Study, "tell", "complete"), (Watcher, "took", "complete"),
        (optuna.Trial, "set_user_attr", "failed"), (optuna.Study, "tell", "failed"), (Watcher, "took", "failed"),
    ],
)  # fmt: skip
def test_what_is_trained_is_told_to_the_end_when_ctrl_c_comes_meanwhile(monkeypatch, owner, name, ends):
    trained = []

    def evaluate(knobs):
        trained.append(dict(knobs))
        if len(trained) == 2:
            monkeypatch.setattr(owner, name, interrupted)
        if ends == "failed":
            raise RuntimeError(f"of {knobs}")
        return readings(knobs)

    def interrupted(*given, **settings):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        return getattr(owner, name)(*given, **settings)

    settings = {"trials": 4, "storage": optuna.storages.InMemoryStorage(), "limits": {"accuracy": 0.1}}
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, evaluate, BOTH, **settings)
    found = search(SPACE, evaluate, BOTH, **settings)
    assert [record.state for record in found.records] == [ends] * 4
    assert [dict(record.params) for record in found.records] == trained
    if ends == "complete":
        assert all(record.readings == readings(record.params) for record in found.records)
        assert all("accuracy" in trial.constraints for trial in found.study.trials)


def test_a_vector_whose_draw_is_interrupted_comes_first():
    def costs(knobs):
        if knobs["width"] == 3:
            raise KeyboardInterrupt
        return size(knobs)

    settings = {"storage": optuna.storages.InMemoryStorage(), "start": [{"width": 3, "bits": 4}]}
    run = Search(SPACE, BOTH, static_costs=costs, **settings)
    with pytest.raises(KeyboardInterrupt):
        run.ask()
    assert Search(SPACE, BOTH, static_costs=size, **settings).ask().trial.params == {"width": 3, "bits": 4}
    assert "RUNNING" not in [trial.state.name for trial in run.study.trials[:-1]]


def test_a_start_vector_of_a_model_already_trained_is_served():
    start = [{"width": 12, "bits": 8}, {"width": 12, "bits": 4}]
    found = search(
        SPACE, readings, BOTH, trials=4, start=start, canonical=lambda knobs: (knobs["width"], knobs["bits"] > 8)
    )
    assert found.counts.duplicate == 1
    assert found.counts.complete == 4
    assert len(found.front) <= 4


def test_many_trials_may_run_at_once():
    run = Search(SPACE, BOTH, {"bytes": 12.0}, 30, static_costs=size)
    under_way = []
    for _ in range(30):
        under_way.append(run.ask())
        if len(under_way) == 4:
            proposal = under_way.pop(0)
            run.tell(proposal, accuracy(proposal.trial.params))
    records = [run.tell(proposal, accuracy(proposal.trial.params)) for proposal in under_way]
    assert all(record.is_feasible for record in records)
    trained = [record for record in run.result.records if record.state == "complete"]
    assert len({tuple(record.params.values()) for record in trained}) == 30


@pytest.mark.parametrize("directions", [{"loss": "minimize"}, {"a": "minimize", "b": "maximize", "c": "minimize"}])
def test_any_number_of_objectives_and_continuous_knobs(directions):
    space = {"x": FloatRange(0.0, 1.0, 0.0), "kind": Choice(("p", "q"), "p")}
    from sweeps.search.proposals.acquisition import Screening

    def evaluate(knobs):
        bent = (knobs["x"] - 0.3) ** 2 + (knobs["kind"] == "q")
        return {"loss": bent, "a": bent, "b": knobs["x"], "c": 1 - knobs["x"] * bent}

    found = search(space, evaluate, directions, trials=25, screening=Screening(startup=5, explore=0))
    assert found.counts.complete == 25
    if len(directions) == 1:
        assert found.front[0].readings["loss"] < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials"),
        ({"space": {}}, "at least one knob"),
        ({"objectives": {}}, "at least one knob and one objective"),
        ({"objectives": {"bytes": "down"}}, "objective bytes must be 'minimize' or 'maximize', not 'down'"),
        ({"limits": {"bytes": float("inf")}}, "limit of bytes"),
        ({"evaluate": [1, 2]}, "not list"),
        ({"evaluate": pd.DataFrame({"width": [1], "bytes": [1]})}, "no column bits"),
        ({"static_costs": ["bytes"]}, "evaluate is a function"),
    ],
)
def test_what_makes_no_sense_is_said(change, message):
    given = {"space": SPACE, "evaluate": readings, "objectives": BOTH, **change}
    with pytest.raises(SweepError, match=message):
        search(**given)
