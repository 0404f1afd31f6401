"""What takes seconds to make and is made once for all test processes: an empty MLflow database, finished sweeps."""

import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that whichever process comes first fills; tests only read it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    made = folder.with_suffix(".made")
    with FileLock(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty database."""
    from sweeps.views.mlflow.runs import connect

    def make(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own
            connect(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return once(tmp_path_factory, "mlflow", make) / "mlflow.db"


@pytest.fixture
def tracked(tmp_path: Path, empty_mlflow: Path) -> Path:
    """Return a folder with an empty database of its own."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a small study without MLflow; tests only read its folder, or copy it."""
    from small import sweep

    def make(folder: Path) -> None:
        assert sweep(folder, "+limits.weight_bytes=5000", "noise.seconds=60", "noise.resamples=20")[0] == 0

    return once(tmp_path_factory, "ran", make) / "small"


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a small study undisturbed, for what disturbed ones are to come to."""
    from small import TRIALS, sweep

    def make(folder: Path) -> None:
        assert sweep(folder, f"trials={TRIALS}")[0] == 0

    return once(tmp_path_factory, "calm", make)


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes be forked off a server that has imported all, where how they start is not the point."""
    from programs import server

    context = server()
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@pytest.fixture
def copied(ran: Path, empty_mlflow: Path, tmp_path: Path) -> Path:
    """Return a copy of the study's folder to write to, with an empty MLflow database."""
    folder = tmp_path / "small"
    shutil.copytree(ran, folder)
    (folder / ".lock").unlink(missing_ok=True)
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    return folder
