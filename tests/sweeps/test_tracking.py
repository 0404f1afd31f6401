"""The MLflow view: what is written, what a resume adds, and what happens when the server is not there."""

from pathlib import Path

import pytest

from sweeps.study import Record
from sweeps.tracking import Tracker
from sweeps.trial import Point

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def record(number: int, state: str = "complete") -> Record:
    points = tuple(
        Point(step, [["prune.sparsity", 0.5]] * step, {"weight_bytes": [100.0 / step, None], "accuracy": [0.9, 0.01]})
        for step in (1, 2)
    )
    return Record(
        number, {"prune.sparsity": 0.5}, state, points, seconds=1.5, error=None if state == "complete" else "why"
    )


def track(folder: Path, *records: Record, uri: str | None = None) -> tuple[Tracker, list[str]]:
    said: list[str] = []
    tracker = Tracker(uri, "digits", "study-1", folder, said.append)
    tracker.start({"seed": "0", "space.prune": "x"}, {"kmr.study": "digits"}, "name: digits\n")
    for one in records:
        tracker.log_trial(one, hypervolume=0.5 + one.number / 10, name=f"trial {one.number}")
    tracker.flush()
    return tracker, said


def test_a_study_is_a_parent_run_with_a_child_for_each_trial(tmp_path) -> None:
    from mlflow import MlflowClient

    tracker, said = track(tmp_path, record(0), record(1, "failed"), record(2, "interrupted"))
    (tmp_path / "report.html").write_text("<html></html>")
    tracker.log_files({"report": tmp_path / "report.html"})
    (tmp_path / "member").mkdir()
    (tmp_path / "member" / "kmr.json").write_text("{}")
    tracker.log_files({"front/0.1": tmp_path / "member"})
    tracker.clear("front")
    tracker.log_files({"front/0.2": tmp_path / "member"})
    tracker.log_final({"front_size": 1.0}, {"front": "0.2"}, {0: "0.2"})
    tracker.close("FINISHED")
    assert said == []
    place = tracker.place
    client = MlflowClient(tracking_uri=place.uri)
    parent = client.get_run(place.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["seed"] == "0"
    series = [(m.step, m.value) for m in client.get_metric_history(place.run_id, "hypervolume")]
    assert series == [(0, 0.5), (1, 0.6), (2, 0.7)]
    assert {file.path for file in client.list_artifacts(place.run_id, "report")} == {"report/report.html"}
    assert {file.path for file in client.list_artifacts(place.run_id, "front")} == {"front/0.2"}
    query = f"tags.`mlflow.parentRunId` = '{place.run_id}'"
    children = {run.data.tags["kmr.trial"]: run for run in client.search_runs([place.experiment_id], query)}
    assert [children[n].info.status for n in "012"] == ["FINISHED", "FAILED", "KILLED"]
    assert children["0"].data.params == {"prune.sparsity": "0.5"}
    assert children["0"].data.metrics["weight_bytes"] == 50.0
    assert children["0"].data.tags["pareto"] == "true"
    assert "pareto" not in children["1"].data.tags
    assert children["1"].data.tags["kmr.error"] == "why"
    assert tracker.run_ids == {int(n): run.info.run_id for n, run in children.items()}


def test_a_resumed_study_goes_on_in_the_same_runs_and_moves_the_pareto_tag(tmp_path) -> None:
    from mlflow import MlflowClient

    first, _ = track(tmp_path, record(0))
    first.log_final({}, {}, {0: "0.2"})
    first.close("KILLED")
    again, said = track(tmp_path, record(0), record(1))
    again.log_final({}, {}, {1: "1.2"})
    again.close("FINISHED")
    assert said == []
    assert again.place == first.place
    assert again.run_ids[0] == first.run_ids[0]
    client = MlflowClient(tracking_uri=again.place.uri)
    assert len(client.search_runs([again.place.experiment_id])) == 3
    assert "pareto" not in client.get_run(again.run_ids[0]).data.tags
    assert client.get_run(again.run_ids[1]).data.tags["pareto"] == "true"


def test_a_server_that_is_not_there_is_said_once_and_stops_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker, said = track(tmp_path, record(0), record(1), uri="http://127.0.0.1:9")
    tracker.close("FINISHED")
    assert len(said) == 1
    assert "http://127.0.0.1:9 failed, the sweep goes on without it" in said[0]
    assert tracker.place is None


def test_the_printed_page_is_the_experiments_in_the_layout_for_training_runs(tmp_path) -> None:
    tracker, _ = track(tmp_path)
    tracker.close("FINISHED")
    assert tracker.place.ui == f"mlflow ui --backend-store-uri sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracker.place.link.endswith(
        f"#/experiments/{tracker.place.experiment_id}/runs?workflowType=machine_learning"
    )
