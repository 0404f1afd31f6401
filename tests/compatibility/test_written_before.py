"""Files that an earlier version wrote and this one reads: artifacts, MLflow models, a study, a search (`write.py`)."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from safetensors.torch import load_file

import kmr
from sweeps import search

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own, at its import
    import mlflow.pyfunc
    import mlflow.pytorch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
HERE = Path(__file__).parent
ARTIFACTS = sorted(path.parent for path in HERE.glob("artifacts/*/kmr.json"))
SEARCH = HERE / "search" / "journal.log"
BUILDERS = ["written_before"]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def expected(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    kept = load_file(folder / "expected.safetensors")
    return kept["inputs"], kept["outputs"]


@pytest.mark.parametrize("folder", ARTIFACTS, ids=lambda folder: folder.name)
def test_an_artifact_computes_what_it_did(folder: Path) -> None:
    inputs, outputs = expected(folder)
    model = kmr.load(folder, trusted_modules=BUILDERS)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), outputs, **CLOSE)


def test_artifacts_name_classes_of_ours() -> None:
    told = "".join((folder / "kmr.json").read_text() for folder in ARTIFACTS)
    names = set(re.findall(r'"(kmr\.[\w.]+:\w+)"', told))
    assert len(ARTIFACTS) == 23
    assert len(names) == 20


def test_an_exported_model_of_mlflow_computes_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    folder = HERE / "mlflow" / "gated"
    inputs, outputs = expected(folder)
    with torch.no_grad():
        torch.testing.assert_close(mlflow.pytorch.load_model(str(folder))(inputs), outputs, **CLOSE)
    served = mlflow.pyfunc.load_model(str(folder)).predict(inputs.numpy())
    torch.testing.assert_close(torch.as_tensor(served), outputs, **CLOSE)


def test_a_model_of_mlflow_that_names_our_loader_computes_what_it_did() -> None:
    folder = HERE / "mlflow" / "early_exits"
    inputs, outputs = expected(folder)
    model = mlflow.pyfunc.load_model(str(folder), model_config={"trusted_modules": BUILDERS})
    torch.testing.assert_close(torch.as_tensor(model.predict(inputs.numpy())), outputs, **CLOSE)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the run folder, and what its experiment needs, to the folder that commands are run in."""
    for name in ("study", "experiment"):
        shutil.copytree(HERE / name, tmp_path / name)
    for name in ("weights.safetensors", "first_trials.json"):
        shutil.copy(HERE / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "study"


def run_module(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int:
    """Do what `python -m` does, in this process; return the exit code."""
    for each in (name, f"{name}.__main__"):  # it would be run a second time, with a warning
        monkeypatch.delitem(sys.modules, each, raising=False)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_study_is_shown(study: Path, monkeypatch, capsys) -> None:
    assert run_module(monkeypatch, "sweeps.show", "study") == 0
    text = capsys.readouterr().out
    counts = text.splitlines()[0]
    for part in ("7 of 7 trials", "3 complete", "1 duplicate", "1 early-stopped", "1 infeasible", "1 failed"):
        assert part in counts
    assert "3 points on the front" in text
    assert "prune.sparsity=0.84 → cluster.bits=4" in text
    assert "five values are too few for the first layer" in text


def test_a_point_of_the_study_is_recommended_and_its_artifact_loads(study: Path, monkeypatch, capsys) -> None:
    assert run_module(monkeypatch, "sweeps.recommend", "study", "weight_bytes<=1000") == 0
    assert re.search(r"take +5\.2 ", capsys.readouterr().out)
    model = kmr.load(study / "front" / "5.2", trusted_modules=BUILDERS)
    assert model(torch.zeros(2, 4)).shape == (2, 3)


def test_the_tables_and_the_report_of_the_study_are_made_again(study: Path, monkeypatch, capsys) -> None:
    (study / "results.parquet").unlink()
    assert run_module(monkeypatch, "sweeps.sync", "study", "--no-mlflow") == 0
    assert (study / "results.parquet").is_file()
    assert "prune.sparsity" in (study / "report.html").read_text()


def test_the_report_is_made_of_the_table_that_was_written(study: Path, monkeypatch, capsys) -> None:
    (study / "journal.log").unlink()
    assert run_module(monkeypatch, "analysis.report", "study", "--no-images") == 0
    assert "prune.sparsity" in (study / "report.html").read_text()


def test_a_point_of_the_study_is_made_again_and_reads_the_same(study: Path, monkeypatch, capsys) -> None:
    assert run_module(monkeypatch, "sweeps.reproduce", "study", "5.2") == 0
    assert "differs" not in capsys.readouterr().out


def test_the_study_goes_on_once_its_experiment_has_the_names_of_now(study: Path) -> None:
    refused = go_on()
    assert refused.returncode == 2
    assert "the config has no entry budget: it is now limits" in refused.stderr
    experiment = study.parent / "experiment" / "exp" / "written_before.yaml"
    experiment.write_text(experiment.read_text().replace("budget:", "limits:"))
    ended = go_on()
    assert ended.returncode == 0, ended.stderr
    assert "8 trials, 7 finished before" in " ".join(ended.stdout.split())
    assert "8/8 trials" in ended.stdout


def go_on() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeps.run", "--config-dir=experiment", "+exp=written_before", "trials=8"]
    found = os.pathsep.join(str(HERE.parent.parent / folder) for folder in (".", "tests/support"))
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": found}, capture_output=True, text=True)


SPACE = {"width": kmr.IntRange(1, 4, neutral=4), "bits": kmr.Choice((8, 4, 2), neutral=8)}
OBJECTIVES = {"bytes": "minimize", "accuracy": "maximize"}
ALL = [{"width": width, "bits": bits} for width in range(1, 5) for bits in (8, 4, 2)]


def bytes_of(knobs: Mapping[str, Any]) -> dict[str, float]:
    return {"bytes": float(knobs["width"] * knobs["bits"])}


def accuracy_of(knobs: Mapping[str, Any]) -> dict[str, float]:
    if knobs == {"width": 3, "bits": 2}:
        raise ValueError("three of two bits cannot be made")
    return {"accuracy": 1 - 1 / (2 * knobs["width"] + knobs["bits"])}


def journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def searched(path: Path, trials: int, evaluate: Any = accuracy_of) -> Any:
    """Search on until so many vectors have been evaluated; the one that takes 32 bytes breaks the limit."""
    settings = {"static_costs": bytes_of, "storage": journal(path), "name": "before", "seed": 0}
    return search(SPACE, evaluate, OBJECTIVES, {"bytes": 31.0}, trials, **settings)


def test_a_search_goes_on(tmp_path: Path) -> None:
    shutil.copy(SEARCH, tmp_path)
    new: list[Mapping[str, Any]] = []

    def evaluate(knobs: Mapping[str, Any]) -> dict[str, float]:
        new.append(dict(knobs))
        return accuracy_of(knobs)

    found = searched(tmp_path / SEARCH.name, 11, evaluate)
    evaluated = [dict(record.params) for record in found.records if record.params != {"width": 4, "bits": 8}]
    assert len(new) == 3
    assert sorted(map(str, evaluated)) == sorted(str(knobs) for knobs in ALL[:9] + ALL[10:])
    assert sum(record.state == "failed" for record in found.records) == 1
    best = {record.readings["accuracy"] for record in found.front}
    assert max(best) == accuracy_of({"width": 3, "bits": 8})["accuracy"]
