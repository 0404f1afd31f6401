"""Everything derived, written again from the study's storage."""

import io
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from mlflow import MlflowClient
from rich.console import Console

from analysis.table import load
from sweeps.sync import main, set_aside_if_moved
from sweeps.views.run_folder import open_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def told(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200, record=True)
    return main(arguments, console), console.export_text()


def runs(folder: Path) -> dict[str, tuple[str, str | None, dict[str, float]]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    found = client.search_runs([experiment.experiment_id])
    rows = [(run.data.tags.get("kmr.trial", "study"), run) for run in found]
    assert len(dict(rows)) == len(rows), "no trial is there twice"
    return {trial: (run.info.status, run.data.tags.get("pareto"), dict(run.data.metrics)) for trial, run in rows}


def test_tables_and_runs_come_back_and_twice_is_as_once(copied) -> None:
    before = load(copied)
    for name in ("results.parquet", "meta.json", "report.html", "front.csv"):
        (copied / name).unlink()
    code, _ = told(str(copied), "--no-models")
    assert code == 0
    after = load(copied)
    assert after.frame["mlflow_run_id"].iloc[1:].notna().all()
    columns = [name for name in before.frame.columns if name != "mlflow_run_id"]
    pd.testing.assert_frame_equal(after.frame[columns], before.frame[columns])
    assert (copied / "report.html").stat().st_size > 1_000_000
    first = runs(copied)
    trials = set(after.frame["trial"].iloc[1:].astype(str))
    assert len(trials) == 4
    assert set(first) == {"study", *trials}
    assert {status for status, _, _ in first.values()} == {"FINISHED"}
    on_front = {row["point"].split(".")[0] for _, row in after.frame[after.frame["artifact"].notna()].iterrows()}
    assert {trial for trial, (_, pareto, _) in first.items() if pareto == "true"} == on_front - {"base"}
    best = after.frame[after.frame["meter/weight_bytes"] <= 5000]["meter/accuracy"].max()
    assert first["study"][2]["best_within_limits/accuracy"] == best
    assert told(str(copied), "--no-models")[0] == 0
    assert runs(copied) == first


def test_a_database_made_for_another_folder_is_set_aside(copied, tmp_path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{copied / 'mlflow.db'}")
    client.create_experiment("small", artifact_location=(copied / "mlartifacts").as_uri())
    card, said = open_run(copied).card, []
    set_aside_if_moved(card, copied, said.append)
    assert said == []
    moved = copied.rename(tmp_path / "moved")
    set_aside_if_moved(card, moved, said.append)
    assert "set aside as mlflow.moved" in said[0]
    assert (moved / "mlflow.moved").is_file()
    assert not (moved / "mlflow.db").exists()


def test_without_mlflow_only_the_tables_are_written(copied) -> None:
    (copied / "mlflow.db").unlink()
    (copied / "results.parquet").unlink()
    assert told(str(copied), "--no-mlflow")[0] == 0
    assert (copied / "results.parquet").is_file()
    assert not (copied / "mlflow.db").exists()


def test_a_server_that_is_away_is_exit_code_2_after_the_tables_are_written(copied, monkeypatch, capsys) -> None:
    from sweeps.views.mlflow.runs import StudyRuns

    def down(*args: object) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(StudyRuns, "__init__", down)
    (copied / "results.parquet").unlink()
    assert told(str(copied))[0] == 2
    assert "the tables and the report are written, MLflow is not" in capsys.readouterr().err
    assert (copied / "results.parquet").is_file()


def test_a_sweep_that_is_running_is_not_disturbed(copied, capsys) -> None:
    with FileLock(copied / ".lock"):
        assert told(str(copied))[0] == 2
    assert "a sweep is running" in capsys.readouterr().err
