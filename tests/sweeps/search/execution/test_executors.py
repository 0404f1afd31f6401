"""Local worker processes: the same results as in one process, whoever is killed on the way."""

import signal
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState
from programs import Program
from small import SMALL, TRIALS, measured, sweep, table

from sweeps.search.study.attributes import OUTCOME
from sweeps.search.study.storage import open_storage


def states(folder: Path) -> list[TrialState]:
    study = optuna.load_study(study_name="small", storage=open_storage(None, folder / "small"))
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def start(folder: Path, *overrides: str) -> Program:
    command = ("-m", "sweeps.run", *SMALL, f"output_dir={folder}", f"trials={TRIALS}", *overrides)
    return Program(command, folder / "printed")


def workers_of(process: Program) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (path / "cmdline").read_text()
        except (OSError, IndexError):
            continue
        if parent == process.pid and "spawn_main" in command:
            found.append(int(path.name))
    return found


def wait_until(condition, process: Program, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.said()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def told(folder: Path) -> int:
    journal = folder / "small" / "journal.log"
    return journal.read_text().count(OUTCOME) if journal.exists() else 0


def test_two_processes_measure_what_one_does(calm, tmp_path) -> None:
    code, printed = sweep(tmp_path, f"trials={TRIALS}", "workers=2")
    assert code == 0, printed
    assert measured(tmp_path) == measured(calm)
    assert TrialState.RUNNING not in states(tmp_path)
    for _, row in table(tmp_path)[table(tmp_path)["artifact"].notna()].iterrows():
        assert (tmp_path / "small" / row["artifact"] / "model.safetensors").stat().st_size == row["meter/weight_bytes"]


def test_a_killed_driver_takes_its_workers_along_and_the_next_goes_on(calm, tmp_path) -> None:
    process = start(tmp_path, "workers=2")
    wait_until(lambda: told(tmp_path) >= 1, process)
    workers = workers_of(process)
    process.kill()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "a worker outlives its driver"
        time.sleep(0.1)
    code, printed = sweep(tmp_path, f"trials={TRIALS}")
    assert code == 0, printed
    assert measured(tmp_path) == measured(calm)
    assert TrialState.RUNNING not in states(tmp_path)


def test_a_stop_ends_the_workers_and_leaves_a_report(tmp_path) -> None:
    process = start(tmp_path, "workers=2", "trials=500")
    wait_until(lambda: told(tmp_path) >= 1, process)
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    printed = process.wait()
    assert process.returncode == 130, printed
    assert (tmp_path / "small" / "report.html").is_file()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert TrialState.RUNNING not in states(tmp_path)


def test_a_model_that_differs_in_every_process_is_refused(tmp_path, capsys) -> None:
    code, _ = sweep(tmp_path, "workers=2", "train=null", "model._target_=os.getpid")
    assert code == 2
    assert "not trusted" in capsys.readouterr().err
