"""A driver killed at any boundary of its work: the next run goes on, loses nothing and counts nothing twice."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from programs import Program
from small import SMALL, TRIALS, measured, sweep

from sweeps.search.study.record import records
from sweeps.search.study.storage import open_storage

KILLER = """
import importlib, os, signal, sys

module, name, call, when = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
place = importlib.import_module(module)
*owners, name = name.split(".")
for owner in owners:
    place = getattr(place, owner)
real, calls = getattr(place, name), 0

def deadly(*args, **kwargs):
    global calls
    calls += 1
    if calls == call and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **kwargs)
    if calls == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(place, name, deadly)
sys.argv = ["sweeps.run", *sys.argv[5:]]
from sweeps.run import main
main()
"""
BOUNDARIES = [
    ("optuna", "Study.add_trial", 1, "after"),  # the base model is told, nothing is queued
    ("optuna", "Study.enqueue_trial", 4, "before"),  # some of what is tried first is queued
    ("sweeps.search.execution.ledger", "claim", 3, "before"),  # asked, not claimed
    ("kmr.core.step", "apply_move", 2, "after"),  # a rule has been applied
    ("kmr.core.step", "measure", 8, "after"),  # costs have been read, fine-tuning comes next
    ("sweeps.experiment.model_work", "save_artifact", 2, "before"),
    ("sweeps.experiment.model_work", "save_artifact", 2, "after"),  # staged, not on the front
    ("sweeps.search.execution.ledger", "finish", 2, "before"),  # measured, not told
    ("sweeps.search.execution.ledger", "finish", 2, "after"),  # told, nothing else
    ("sweeps.experiment.saved_front", "drop_artifacts", 3, "after"),
    ("sweeps.views.finish", "keep_layers", 1, "before"),  # all trials done, no report
    ("sweeps.views.finish", "publish", 1, "before"),
]


@pytest.mark.parametrize(("module", "name", "call", "when"), BOUNDARIES)
def test_the_next_run_goes_on(calm, tmp_path, module: str, name: str, call: int, when: str) -> None:
    overrides = [*SMALL, f"output_dir={tmp_path}", f"trials={TRIALS}"]
    killed = Program(("-c", KILLER, module, name, str(call), when, *overrides), tmp_path / "printed")
    said = killed.wait()
    assert killed.returncode == -9, said
    before = optuna.load_study(study_name="small", storage=open_storage(None, tmp_path / "small"))
    told = {record.number for record in records(before) if record.state.has_result}
    code, printed = sweep(tmp_path, f"trials={TRIALS}")
    assert code == 0, printed
    assert measured(tmp_path) == measured(calm)
    study = optuna.load_study(study_name="small", storage=open_storage(None, tmp_path / "small"))
    after = records(study)
    complete = [record.number for record in after if record.state.has_result]
    assert told <= set(complete), "no finished trial is lost"
    assert len(complete) == len(set(complete)) == TRIALS, "none is counted twice"
    assert TrialState.RUNNING not in [trial.state for trial in study.get_trials(deepcopy=False)]
    assert all((path / "model.safetensors").is_file() for path in (tmp_path / "small" / "front").iterdir())
    assert not (tmp_path / "small" / ".staging").exists()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_in_one_line_and_the_next_run_goes_on(calm, small_disk, capsys) -> None:
    overrides = [f"trials={TRIALS}", "cache.enabled=false"]
    assert sweep(small_disk, "trials=2", *overrides[1:])[0] == 0
    ballast = small_disk / "ballast"
    with ballast.open("wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(small_disk).free - 12_000)))
    capsys.readouterr()
    code, _ = sweep(small_disk, *overrides)
    error = capsys.readouterr().err
    assert code == 2
    assert "the disk is full" in error
    assert len(error.strip().splitlines()) == 1
    ballast.unlink()
    code, printed = sweep(small_disk, *overrides)
    assert code == 0, printed
    assert measured(small_disk) == measured(calm)


JUMPER = """
import sys, time

real, calls = time.time, 0

def jumping():
    global calls
    calls += 1
    return real() + (0, 40 * 86400, -400 * 86400)[calls // 2 % 3]

time.time = jumping
from sweeps.run import main
try:
    main()
finally:
    print(f"asked for the time {calls} times")
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clock_that_jumps_by_months_changes_nothing(calm, tmp_path, workers: int) -> None:
    overrides = [*SMALL, f"output_dir={tmp_path}", f"trials={TRIALS}", f"workers={workers}", "threads=1"]
    done = Program(("-c", JUMPER, *overrides), tmp_path / "printed")
    printed = done.wait()
    assert done.returncode == 0, printed
    assert int(printed.split()[-2]) >= TRIALS, "it jumped while trials were claimed"
    assert measured(tmp_path) == measured(calm)
    study = optuna.load_study(study_name="small", storage=open_storage(None, tmp_path / "small"))
    assert [record.state.has_result for record in records(study)] == [True] * TRIALS
    assert TrialState.RUNNING not in [trial.state for trial in study.get_trials(deepcopy=False)]


def test_two_drivers_on_one_study_share_its_trials(calm, tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    assert sweep(tmp_path / "first", "trials=1", f"storage={url}")[0] == 0
    drivers = []
    for name in ("one", "two"):
        overrides = [*SMALL, f"output_dir={tmp_path / name}", f"storage={url}", f"trials={TRIALS}"]
        drivers.append(Program(("-m", "sweeps.run", *overrides), tmp_path / f"{name}.printed"))
    for driver in drivers:
        printed = driver.wait()
        assert driver.returncode == 0, printed
    study = optuna.load_study(study_name="small", storage=url)
    found = records(study)
    numbers = [record.number for record in found]
    assert numbers == sorted(set(numbers))
    done = [record.number for record in found if record.state.has_result]
    assert TRIALS <= len(done) <= TRIALS + 1, "the other driver may have begun its last trial at the same moment"
    assert TrialState.RUNNING not in [trial.state for trial in study.get_trials(deepcopy=False)]
    code, _ = sweep(tmp_path / "last", f"storage={url}", f"trials={TRIALS}")
    assert code == 0
    assert measured(calm).items() <= measured(tmp_path / "last").items()
