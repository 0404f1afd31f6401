"""Folders with an empty MLflow database, which takes seconds to make and is made once."""

import shutil
import warnings
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty database once."""
    from sweeps.views.mlflow.runs import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own
        connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracked(tmp_path: Path, empty_mlflow: Path) -> Path:
    """Return a folder with an empty database of its own."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a small study once, without MLflow; tests only read its folder, or copy it."""
    from small import sweep

    folder = tmp_path_factory.mktemp("ran")
    code, _ = sweep(folder, "+limits.weight_bytes=5000", "noise.seconds=60", "noise.resamples=20")
    assert code == 0
    return folder / "small"


@pytest.fixture
def copied(ran: Path, empty_mlflow: Path, tmp_path: Path) -> Path:
    """Return a copy of the study's folder to write to, with an empty MLflow database."""
    folder = tmp_path / "small"
    shutil.copytree(ran, folder)
    (folder / ".lock").unlink(missing_ok=True)
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    return folder
