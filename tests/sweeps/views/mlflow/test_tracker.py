"""The MLflow view: what is written, what a resume adds, and what happens when the server is not there."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeps.search.study.point import Point
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState
from sweeps.views.card import DatasetCard
from sweeps.views.mlflow.backlog import Finished
from sweeps.views.mlflow.runs import RunPlace, StudyRuns
from sweeps.views.mlflow.tracker import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def record(number: int, state: str = "complete") -> Record:
    points = tuple(
        Point(step, [["prune.sparsity", 0.5]] * step, {"weight_bytes": [100.0 / step, None], "accuracy": [0.9, 0.01]})
        for step in (1, 2)
    )
    return Record(
        number, {"prune.sparsity": 0.5}, TrialState(state), points, finished=f"2026-03-01T10:00:{number:02d}+00:00",
        seconds=1.5, error=None if state == "complete" else "why",
    )  # fmt: skip


def track(folder: Path, *records: Record, uri: str | None = None, **more: Any) -> tuple[Tracker, list[str]]:
    said: list[str] = []
    tracker = Tracker(uri, "digits", "study-1", folder, said.append, **more)
    tracker.start({"seed": "0", "space.prune": "x"}, {"kmr.study": "digits"}, "name: digits\n", DATASETS)
    for one in records:
        tracker.log_trial(one, 0.5 + one.number / 10, f"trial {one.number}", [f"{one.number}.2"])
    tracker.flush()
    return tracker, said


DATASETS = (DatasetCard("digits training", "abc", 10, "training"), DatasetCard("digits test", "def", 5, "test"))


def children(tracker: Tracker) -> dict[int, Any]:
    client, place = MlflowClient(tracking_uri=tracker.place.uri), tracker.place
    found = client.search_runs([place.experiment_id], f"tags.`mlflow.parentRunId` = '{place.run_id}'")
    runs = [(int(run.data.tags["kmr.trial"]), run) for run in found]
    assert len(dict(runs)) == len(runs), "no trial is there twice"
    return dict(runs)


def test_a_study_is_a_parent_run_with_a_child_for_each_trial(tracked) -> None:
    states = ["complete", "failed", "infeasible", "retried", "early-stopped"]
    tracker, said = track(tracked, *(record(number, state) for number, state in enumerate(states)))
    (tracked / "report.html").write_text("<html></html>")
    tracker.log_files({"report": tracked / "report.html"})
    tracker.log_final({"trials_finished": 5.0}, {"front": "0.2"}, ["0.1", "0.2", "base"], {"0.2": {"accuracy": 0.8}})
    tracker.close("FINISHED")
    assert said == []
    place = tracker.place
    client = MlflowClient(tracking_uri=place.uri)
    parent = client.get_run(place.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["seed"] == "0"
    series = [(m.step, m.value) for m in client.get_metric_history(place.run_id, "hypervolume")]
    assert series == [(0, 0.5), (1, 0.6), (2, 0.7), (3, 0.8), (4, 0.9)]
    assert [m.value for m in client.get_metric_history(place.run_id, "front_size")] == [1.0] * 5
    assert {file.path for file in client.list_artifacts(place.run_id, "report")} == {"report/report.html"}
    contexts = {data.dataset.name: data.tags[0].value for data in parent.inputs.dataset_inputs}
    assert contexts == {"digits training": "training", "digits test": "test"}
    runs = children(tracker)
    assert [runs[n].info.status for n in range(5)] == ["FINISHED", "FAILED", "FAILED", "KILLED", "FINISHED"]
    assert runs[0].data.params == {"prune.sparsity": "0.5"}
    assert runs[0].data.metrics["weight_bytes"] == 50.0
    assert runs[0].data.metrics["stderr/accuracy"] == 0.01
    assert runs[0].data.metrics["test/accuracy"] == 0.8
    assert runs[0].info.end_time - runs[0].info.start_time == 1500
    assert (runs[0].data.tags["pareto"], runs[0].data.tags["pareto.points"]) == ("true", "0.1, 0.2")
    assert runs[1].data.tags["kmr.error"] == "why"
    assert tracker.run_ids == {n: run.info.run_id for n, run in runs.items()}


def test_the_pareto_tag_follows_the_front_after_every_trial(tracked) -> None:
    tracker, _ = track(tracked, record(0))
    assert children(tracker)[0].data.tags["pareto"] == "true"
    tracker.log_trial(record(1), 0.6, "trial 1", ["1.1"])
    tracker.flush()
    runs = children(tracker)
    assert (runs[0].data.tags["pareto"], runs[1].data.tags["pareto"]) == ("false", "true")
    tracker.close("FINISHED")


def test_a_resumed_study_goes_on_in_the_same_runs_and_fills_in_what_is_missing(tracked) -> None:
    first, _ = track(tracked, record(0))
    first.close("KILLED")
    again, said = track(tracked)
    again.backfill(3, lambda: [Finished(record(n), f"trial {n}", 0.5, ["2.2"]) for n in range(3)])
    again.close("FINISHED")
    assert said == []
    assert again.place == first.place
    assert again.run_ids[0] == first.run_ids[0]
    runs = children(again)
    assert sorted(runs) == [0, 1, 2]
    assert [runs[n].data.tags["pareto"] for n in (0, 2)] == ["false", "true"]


def test_a_run_left_half_written_is_written_again(tracked) -> None:
    first, _ = track(tracked)
    client = MlflowClient(tracking_uri=first.place.uri)
    tags = {"kmr.study_id": "study-1", "kmr.trial": "0", "mlflow.parentRunId": first.place.run_id}
    half = client.create_run(first.place.experiment_id, tags=tags).info.run_id
    first.close("KILLED")
    again, _ = track(tracked, record(0))
    again.close("FINISHED")
    assert children(again)[0].info.run_id != half
    assert children(again)[0].info.status == "FINISHED"


def test_more_settings_than_one_call_takes_and_names_it_does_not_take(tracked) -> None:
    tracker, said = track(tracked)
    points = (Point(1, [], {"top@1": [0.9, None]}),)
    params = {f"layer{n}.ratio": 0.5 for n in range(250)}
    tracker.log_trial(Record(0, params, "complete", points), 0.5, "many")
    tracker.close("FINISHED")
    assert said == []
    run = children(tracker)[0]
    assert len(run.data.params) == 250
    assert run.data.metrics["top_1"] == 0.9


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_the_studys_run_is_closed_however_it_ends(tracked, error, status) -> None:
    def body() -> Tracker:
        tracker, _ = track(tracked)
        with tracker:
            if error is not None:
                kept.append(tracker)
                raise error
        return tracker

    kept: list[Tracker] = []
    if error is None:
        kept.append(body())
    else:
        with pytest.raises(type(error)):
            body()
    place = kept[0].place
    assert MlflowClient(tracking_uri=place.uri).get_run(place.run_id).info.status == status


def test_a_server_that_comes_back_gets_what_it_missed(tracked, monkeypatch) -> None:
    now = [0.0]
    tracker, said = track(tracked, record(0), retry=60.0, clock=lambda: now[0])
    with monkeypatch.context() as broken:
        broken.setattr(StudyRuns, "trial", _down)
        tracker.log_trial(record(1), 0.6, "trial 1", ["1.2"])
        tracker.log_trial(record(2), 0.6, "trial 2", ["2.2"])
        tracker.flush()
        assert len(said) == 1
        now[0] = 61.0
        tracker.log_trial(record(3), 0.7, "trial 3", ["3.2"])
        tracker.flush()
        assert len(said) == 1, "still down, and said once"
    now[0] = 200.0
    tracker.log_trial(record(4), 0.8, "trial 4", ["4.2"])
    tracker.close("FINISHED")
    assert "is back" in said[-1]
    runs = children(tracker)
    assert sorted(runs) == [0, 1, 2, 3, 4]
    assert [n for n, run in runs.items() if run.data.tags.get("pareto") == "true"] == [4]


def _down(*args: object) -> None:
    raise ConnectionError("the server is away")


def test_the_machines_load_is_written_and_the_monitor_ends_with_the_run(tracked, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker, said = track(tracked, system_metrics=True)
    client, run = MlflowClient(tracking_uri=tracker.place.uri), tracker.place.run_id
    while not [name for name in client.get_run(run).data.metrics if name.startswith("system/")]:
        time.sleep(0.05)
    tracker.close("FINISHED")
    assert said == []
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


def test_a_server_that_is_not_there_is_said_once_and_stops_nothing(tracked, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker, said = track(tracked, record(0), record(1), uri="http://127.0.0.1:9")
    tracker.close("FINISHED")
    assert "http://127.0.0.1:9 failed, and the sweep continues without it" in said[0]
    assert said[1:] == [f"MLflow is incomplete: python -m sweeps.sync {tracked} writes the rest"]
    assert tracker.place is None


def test_the_printed_page_is_the_experiments_in_the_layout_for_training_runs(tracked) -> None:
    tracker, _ = track(tracked)
    tracker.close("FINISHED")
    assert tracker.place.ui == f"mlflow ui --backend-store-uri sqlite:///{tracked / 'mlflow.db'}"
    assert tracker.place.link.endswith(
        f"#/experiments/{tracker.place.experiment_id}/runs?workflowType=machine_learning"
    )
    assert tracker.place.study_link.endswith(f"/runs/{tracker.place.run_id}?workflowType=machine_learning")


def test_a_path_with_blanks_is_quoted_in_the_command() -> None:
    place = RunPlace("sqlite:////my runs/mlflow.db", "1", "a")
    assert place.ui == "mlflow ui --backend-store-uri 'sqlite:////my runs/mlflow.db'"


def test_trials_that_follow_fast_share_a_write_of_the_study_run(tracked, monkeypatch) -> None:
    written: list[int] = []
    write = StudyRuns.write

    def counting(self: StudyRuns, run: str, metrics: Any = (), *rest: Any, **more: Any) -> None:
        metrics = list(metrics)
        if run == self.parent and any(name == "hypervolume" for name, _, _ in metrics):
            written.append(sum(name == "hypervolume" for name, _, _ in metrics))
        write(self, run, metrics, *rest, **more)

    monkeypatch.setattr(StudyRuns, "write", counting)
    tracker, said = track(tracked, record(0), clock=lambda: 0.0)
    for number in range(1, 6):
        tracker.log_trial(record(number), 0.5 + number / 10, f"trial {number}", [f"{number}.2"])
    tracker.flush()
    assert said == []
    assert written == [1, 5], "the first at once, the others when they are asked for"
    history = MlflowClient(tracking_uri=tracker.place.uri).get_metric_history(tracker.place.run_id, "hypervolume")
    assert [(metric.step, metric.value) for metric in sorted(history, key=lambda m: m.step)] == [
        (number, 0.5 + number / 10) for number in range(6)
    ]
    marked = {number: run.data.tags.get("pareto") for number, run in children(tracker).items()}
    assert [number for number, mark in marked.items() if mark == "true"] == [5], "the tags follow"
    tracker.close("FINISHED")
