"""Ctrl-C twice, MLflow away, a damaged cache, killed workers: real processes, stopped at exact moments.

The trials are a fixed list, so that what is tried and what comes of it depend on nothing that happens on the way.
"""

import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from programs import Program
from rich.console import Console
from small import SMALL, measured, sweep, table

from kmr.cache import Store
from sweeps.search.study.attributes import OUTCOME
from sweeps.search.study.record import Record, records
from sweeps.search.study.storage import open_storage
from sweeps.sync import main as sync

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LISTED = [
    {"structured.ratio": 0.4, "quantize.bits": 8},
    {"structured.ratio": 0.6, "lowrank.keep": 0.7, "quantize.bits": 4},
    {"structured.ratio": 0.4, "lowrank.keep": 0.5},
    {"structured.ratio": 0.6, "quantize.bits": 6},
    {"structured.ratio": 0.6, "lowrank.keep": 0.7, "quantize.bits": 2},
]
STEPS = 4
"""Of fine-tuning after each move."""
LONGEST = 120.0
"""Seconds that anything waited for may take on a busy machine."""
HALTING = '''
"""A user's loss. The first processes that come to a moment the test names wait there to be killed or let go."""

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from sweeps.experiment.model_work import ModelWork
from torch.nn.functional import cross_entropy

steps = jobs = 0
number = None


def loss(model, batch):
    global steps
    steps += 1
    if steps == int(os.environ.get("HALT_AT_STEP", 2)):
        halt("training")
    time.sleep(float(os.environ.get("SECONDS_A_STEP", 0)))
    inputs, targets = batch
    return cross_entropy(model(inputs), targets)


def halt(moment):
    if moment not in os.environ.get("HALT_AT", "").split(","):
        return
    place = Path(os.environ["HALT_IN"])
    mine = place / f"{os.getpid()}.{moment}"
    mine.write_text(f"{os.getpid()} {number}")
    for count in range(int(os.environ.get("HALTS", 1))):
        try:
            os.link(mine, place / f"{moment}.{count}")
        except FileExistsError:
            continue
        end = time.monotonic() + 240
        while not (place / "go").exists() and time.monotonic() < end:
            time.sleep(0.02)
        return


if multiprocessing.current_process().daemon:  # a worker
    real_call, real_recv = ModelWork.__call__, Connection.recv

    def call(work, job, tell):
        global jobs, number
        number = job.number

        def told(measured):
            tell(measured)
            halt("measured")

        halt("asked")
        ended = real_call(work, job, told)
        jobs += 1
        return ended

    def recv(pipe):
        if jobs:
            halt("between")
        return real_recv(pipe)

    ModelWork.__call__, Connection.recv = call, recv
'''


@pytest.fixture(scope="module", autouse=True)
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write the user's module and the list of trials, where this process and its children find them."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "halting.py").write_text(HALTING)
    (folder / "listed.json").write_text(json.dumps(LISTED))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        yield folder


def listed(code: Path, *overrides: str) -> list[str]:
    return [
        f"trials={len(LISTED)}", f"first_trials={code / 'listed.json'}", "anchors=0", "noise.seconds=0",
        "cache.enabled=false", f"finetune.steps={STEPS}", "trusted_modules=[halting]",
        "+finetune.batch_loss={_target_: halting.loss, _partial_: true}", *overrides,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Path:
    """Run the list undisturbed, without a cache."""
    folder = tmp_path_factory.mktemp("calm")
    assert sweep(folder, *listed(code))[0] == 0
    return folder


@contextmanager
def started(
    folder: Path, *overrides: str, program: tuple[str, ...] = ("-m", "sweeps.run"), **environment: str
) -> Iterator[Program]:
    """Start a sweep; whatever is left of it at the end is killed."""
    command = (*program, *SMALL, f"output_dir={folder}", *overrides)
    process = Program(command, folder / "printed", {**os.environ, "HALT_IN": str(folder), **environment})
    try:
        yield process
    finally:
        for pid in session(process):
            os.kill(pid, signal.SIGKILL)
        process.kill()


def printed(folder: Path) -> str:
    return (folder / "printed").read_text()


def session(process: Program) -> set[int]:
    """Return the processes of a sweep that are alive, itself among them."""
    found = set()
    for each in psutil.process_iter():
        try:
            if os.getsid(each.pid) == process.pid and each.status() != psutil.STATUS_ZOMBIE:
                found.add(each.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def workers(process: Program) -> set[int]:
    found = set()
    for pid in session(process):
        try:
            if "spawn_main" in " ".join(psutil.Process(pid).cmdline()):
                found.add(pid)
        except psutil.Error:
            continue
    return found


def wait_until(condition: Callable[[], bool], process: Program, folder: Path) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        assert process.poll() is None, printed(folder)
        assert time.monotonic() < end, f"it takes too long: {printed(folder)}"
        time.sleep(0.02)


def ends(process: Program, folder: Path, code: int, seconds: float = LONGEST) -> str:
    """Wait until a sweep and all its processes are gone; return what it printed."""
    process.wait(seconds)
    assert process.returncode == code, printed(folder)
    assert "Traceback" not in printed(folder)
    end = time.monotonic() + 20
    while left := session(process):
        assert time.monotonic() < end, f"{left} outlive the sweep"
        time.sleep(0.05)
    return printed(folder)


def halted(folder: Path, count: int = 0, moment: str = "training") -> int | None:
    """Return the process that waits at a moment."""
    path = folder / f"{moment}.{count}"
    return int(path.read_text().split()[0]) if path.exists() else None


def halted_trial(folder: Path, moment: str) -> int:
    """Return the last trial that the worker at a moment was given."""
    return int((folder / f"{moment}.0").read_text().split()[1])


def open_study(folder: Path, name: str = "small") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_storage(None, folder / name))


def complete(folder: Path, name: str = "small") -> dict[int, Record]:
    """Return the finished trials of a study by number."""
    found = [record for record in records(open_study(folder, name)) if record.state.has_result]
    assert len({record.number for record in found}) == len(found)
    return {record.number: record for record in found}


def told(folder: Path) -> int:
    journal = folder / "small" / "journal.log"
    return journal.read_text().count(OUTCOME) if journal.exists() else 0


def front(folder: Path, name: str = "small") -> dict[str, tuple[float, float, float]]:
    """Return bytes, accuracy and test accuracy of each front member by its sequence; its artifact is there, whole."""
    frame = table(folder, name)
    frame = frame[frame["artifact"].notna()]
    assert {path.name for path in (folder / name / "front").iterdir()} == set(frame["point"])
    for _, row in frame.iterrows():
        size = (folder / name / row["artifact"] / "model.safetensors").stat().st_size
        assert size == row["meter/weight_bytes"]
    names = ["meter/weight_bytes", "meter/accuracy", "test/accuracy"]
    found = {row["sequence"]: tuple(row[each] for each in names) for _, row in frame.iterrows()}
    assert len(found) == len(frame)
    return found


def vectors(found: Mapping[int, Record]) -> list[str]:
    return sorted(json.dumps(dict(record.params), sort_keys=True) for record in found.values())


def check_it_is_as_if_nothing_had_happened(folder: Path, calm: Path, before: Mapping[int, Record] = {}) -> None:
    """Compare a study with the undisturbed one; `before` are trials that had been finished earlier."""
    after = complete(folder)
    assert {number: after.get(number) for number in before} == dict(before), "what was finished is as it was"
    assert vectors(after) == vectors(complete(calm)), "each vector of the list is tried exactly once"
    assert len(after) == len(LISTED)
    assert all(trial.state.is_finished() for trial in open_study(folder).get_trials(deepcopy=False))
    assert measured(folder) == measured(calm)
    assert front(folder) == front(calm)
    assert (folder / "small" / "report.html").stat().st_size > 1_000_000
    assert not (folder / "small" / ".staging").exists()


SECOND = """
import importlib, os, signal, sys
from pathlib import Path

module, name, when, folder = sys.argv[1:5]
place = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    place = getattr(place, part)
real = getattr(place, last)
armed, fired = Path(folder, "armed"), Path(folder, "fired")

def interrupt():
    if armed.exists() and not fired.exists():
        fired.touch()
        os.kill(os.getpid(), signal.SIGINT)

def interrupted(*args, **kwargs):
    if when == "before":
        interrupt()
    result = real(*args, **kwargs)
    if when == "after":
        interrupt()
    return result

setattr(place, last, interrupted)
sys.argv = ["sweeps.run", *sys.argv[5:]]
from sweeps.run import main
main()
"""
SECONDS_TO_STOP = 20.0
"""A stop that begins another trial, or waits for one, does not end within these."""
HALT_IN_THE_THIRD = str(6 * STEPS + 2)
"""A step of fine-tuning in the second move of the third trial; the first trial takes two moves, the second three."""


@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        ("sweeps.search.execution.ledger", "Ledger.put_all_back", "before"),  # nothing is said of the trial under way
        ("optuna", "Study.enqueue_trial", "before"),
        ("optuna", "Study.enqueue_trial", "after"),  # it waits in the queue again, and is not closed
        ("optuna", "Study.tell", "before"),  # the last moment before it is closed
        ("sweeps.views.finish", "publish", "before"),  # the report is to be written
    ],
)
def test_a_second_ctrl_c_at_any_moment_of_stopping(calm, code, tmp_path, module: str, name: str, when: str) -> None:
    program = ("-c", SECOND, module, name, when, str(tmp_path))
    with started(
        tmp_path, *listed(code), program=program, HALT_AT="training", HALT_AT_STEP=HALT_IN_THE_THIRD
    ) as process:
        wait_until(lambda: halted(tmp_path) is not None, process, tmp_path)
        before = complete(tmp_path)
        assert len(before) == 2
        (tmp_path / "armed").touch()
        process.send_signal(signal.SIGINT)
        ends(process, tmp_path, 130, SECONDS_TO_STOP)
    assert (tmp_path / "fired").exists(), "the second signal was sent"
    exit_code, said = sweep(tmp_path, *listed(code))
    assert exit_code == 0, said
    check_it_is_as_if_nothing_had_happened(tmp_path, calm, before)


def test_ctrl_c_twice_on_two_workers_that_train(calm, code, tmp_path) -> None:
    # Each worker halts in its second trial.
    halts = {"HALT_AT": "training", "HALT_AT_STEP": str(3 * STEPS + 2), "HALTS": "2"}
    with started(tmp_path, *listed(code, "workers=2"), **halts) as process:
        wait_until(lambda: None not in (halted(tmp_path, 0), halted(tmp_path, 1)), process, tmp_path)
        before = complete(tmp_path)
        assert len(before) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        wait_until(lambda: "stopping: " in printed(tmp_path), process, tmp_path)
        os.killpg(process.pid, signal.SIGINT)
        ends(process, tmp_path, 130, SECONDS_TO_STOP)
    (tmp_path / "go").touch()
    exit_code, said = sweep(tmp_path, *listed(code))
    assert exit_code == 0, said
    check_it_is_as_if_nothing_had_happened(tmp_path, calm, before)


def test_a_worker_killed_at_any_moment_of_its_work(calm, code, tmp_path) -> None:
    # Two workers halt at a time, each at a moment of its own, and are killed; the next two come to the other moments.
    points = {"asked": 0, "training": 0, "measured": 1}
    rounds = [("asked", "training"), ("measured", "between")]
    with started(tmp_path, *listed(code, "workers=2"), HALT_AT="asked,training,measured,between") as process:
        for moments in rounds:
            wait_until(lambda m=moments: all(halted(tmp_path, moment=each) for each in m), process, tmp_path)
            for moment in moments:
                os.kill(halted(tmp_path, moment=moment) or 0, signal.SIGKILL)
        said = ends(process, tmp_path, 0)
    lost = {record.number: record for record in records(open_study(tmp_path)) if not record.state.has_result}
    for record in lost.values():
        assert record.state == "retried"
        assert "its worker died (killed by signal 9" in str(record.error)
        assert f"trial {record.number}: its worker died" in said
    at = {moment: lost.pop(halted_trial(tmp_path, moment)) for moment in points}
    assert {moment: len(record.points) for moment, record in at.items()} == points
    # Between two trials, the next may not have been handed out yet.
    assert [len(record.points) for record in lost.values()] in ([], [0])
    assert complete(tmp_path)[halted_trial(tmp_path, "between")].state == "complete", "what it had ended stays"
    check_it_is_as_if_nothing_had_happened(tmp_path, calm)


def test_a_worker_killed_while_it_has_nothing_to_do(calm, code, tmp_path) -> None:
    # One halts in its first trial, so that the other does the rest and then waits for the first.
    with started(tmp_path, *listed(code, "workers=2"), HALT_AT="training") as process:
        wait_until(lambda: told(tmp_path) == len(LISTED) - 1, process, tmp_path)
        both = workers(process)
        (idle,) = both - {halted(tmp_path)}
        os.kill(idle, signal.SIGKILL)
        wait_until(lambda: bool(workers(process) - both), process, tmp_path)  # another takes its place
        (tmp_path / "go").touch()
        said = ends(process, tmp_path, 0)
    assert "retrying" not in said
    assert all(record.state.has_result for record in records(open_study(tmp_path)))
    check_it_is_as_if_nothing_had_happened(tmp_path, calm)


def damage(cache: Path) -> set[str]:
    """Damage every entry of a cache, each in another way; return their keys."""
    entries = sorted(path.parent for path in cache.glob("entries/*/*/*/entry.json"))
    for turn, entry in enumerate(entries):
        path = entry / ("entry.json" if turn % 4 == 1 else "tensors.safetensors")
        content = bytearray(path.read_bytes())
        if turn % 4 == 0:
            content = content[: len(content) // 2]
        elif turn % 4 == 3:
            content = bytearray()
        else:
            content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    return {entry.name for entry in entries}


def quarantined(cache: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in cache.glob("quarantine/*"))


CACHED = ("cache.enabled=true",)
SLOW = {"SECONDS_A_STEP": "0.04"}
"""A move made in less than a tenth of a second is not cached."""


def cached_run(folder: Path, code: Path, *overrides: str) -> str:
    with started(folder, *listed(code, *CACHED, *overrides), **SLOW) as process:
        return ends(process, folder, 0)


def test_a_cache_damaged_between_two_runs_of_a_study(calm, code, tmp_path) -> None:
    cache = tmp_path / ".cache" / "prefixes"
    cached_run(tmp_path, code, "trials=2")
    before = complete(tmp_path)
    damaged = damage(cache)
    assert len(damaged) == 10, "five models, and what was read of each"
    said = cached_run(tmp_path, code)
    assert "moved the damaged cache entry" in said
    # Recalled would have been ratio 0.4, ratio 0.6, and ratio 0.6 with rank 0.7.
    found = quarantined(cache)
    assert set(found) <= damaged
    assert len(found) == len(set(found)) == 6
    store = Store(cache, 10**9)
    assert all(store.get(key) is not None for key in found), "they are made again, and whole"
    after = complete(tmp_path)
    assert [after[number].recalled.hits for number in (2, 3, 4)] == [0, 0, 1], "only what was made again is recalled"
    check_it_is_as_if_nothing_had_happened(tmp_path, calm, before)


def test_a_damaged_cache_that_another_study_shares(calm, code, tmp_path) -> None:
    cache = tmp_path / ".cache" / "prefixes"
    cached_run(tmp_path, code)
    damaged = damage(cache)
    cached_run(tmp_path, code, "name=other")
    assert quarantined(cache) == sorted(damaged)
    store = Store(cache, 10**9)
    assert all(store.get(key) is not None for key in damaged), "they are made again, and whole"
    one, other = complete(tmp_path), complete(tmp_path, "other")
    assert one.keys() == other.keys() == complete(calm).keys()
    for number, record in one.items():
        assert other[number].params == record.params
        assert [point.readings for point in other[number].points] == [point.readings for point in record.points]
    ids = [set(table(folder, name)["point"]) for folder, name in ((calm, "small"), (tmp_path, "other"))]
    assert ids[0] == ids[1]
    assert front(tmp_path, "other") == front(calm)
    check_it_is_as_if_nothing_had_happened(tmp_path, calm)


TRACKED = ("tracking.enabled=true", "tracking.models=false")
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5"}


def check_mlflow_has_all(uri: str, folder: Path) -> None:
    """Each trial is one finished child of the study's one run, with what it measured last."""
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    parents = [run for run in found if "kmr.trial" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    children = {int(run.data.tags["kmr.trial"]): run for run in found if "kmr.trial" in run.data.tags}
    assert len(children) == len(found) - 1, "no trial is there twice"
    after = complete(folder)
    assert children.keys() == after.keys()
    for number, run in children.items():
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert run.info.status == "FINISHED"
        final = after[number].final
        assert final is not None
        for meter in ("weight_bytes", "accuracy"):
            assert run.data.metrics[meter] == final.readings[meter][0]


def said_once(text: str, uri: str) -> None:
    complaints = [line for line in text.splitlines() if re.search("fail|error|warn|exception", line, re.IGNORECASE)]
    assert len(complaints) == 1, text
    assert complaints[0].startswith(f"MLflow at {uri} failed, and the sweep continues without it: ")
    assert text.count("python -m sweeps.sync") == 1, "and what to do about it, once"


def test_a_sweep_whose_mlflow_is_not_there(calm, code, tracked) -> None:
    uri = "http://127.0.0.1:9"
    with started(tracked, *listed(code, *TRACKED, f"tracking.uri={uri}"), **IMPATIENT) as process:
        said_once(ends(process, tracked, 0), uri)
    check_it_is_as_if_nothing_had_happened(tracked, calm)
    before = complete(tracked)
    working = f"sqlite:///{tracked / 'mlflow.db'}"
    assert sweep(tracked, *listed(code, f"tracking.uri={working}"))[0] == 0, "the study is told of another place"
    MlflowClient(tracking_uri=working).create_experiment("small", artifact_location=(tracked / "artifacts").as_uri())
    command = [sys.executable, "-m", "sweeps.sync", str(tracked / "small"), "--no-models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(LISTED)} trials" in done.stdout
    check_mlflow_has_all(working, tracked)
    check_it_is_as_if_nothing_had_happened(tracked, calm, before)


SERVER = """
import os, sys

folder, port = sys.argv[1:]
os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{folder}/mlflow.db"
os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = f"{folder}/artifacts"
from mlflow.server import app
from werkzeug.serving import make_server

server = make_server("127.0.0.1", int(port), app, threaded=True)
print("ready", flush=True)
server.serve_forever()
"""


@contextmanager
def serving(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run an MLflow server on the folder's database until it is killed."""
    command = [sys.executable, "-c", SERVER, str(folder), str(port)]
    with (folder / "server").open("a") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", (folder / "server").read_text()
        yield server
    finally:
        server.kill()
        server.communicate()


def finished_runs(database: Path) -> int:
    connection = sqlite3.connect(database, timeout=30)
    try:
        query = "SELECT count(*) FROM runs JOIN tags USING (run_uuid) WHERE key = 'kmr.trial' AND status = 'FINISHED'"
        return int(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


def test_an_mlflow_server_that_dies_in_the_middle_of_a_sweep(calm, code, tracked) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    halts = {"HALT_AT": "training", "HALT_AT_STEP": HALT_IN_THE_THIRD}
    overrides = listed(code, *TRACKED, f"tracking.uri={uri}")
    with serving(tracked, port) as server, started(tracked, *overrides, **halts, **IMPATIENT) as process:
        wait_until(lambda: halted(tracked) is not None, process, tracked)
        wait_until(lambda: finished_runs(tracked / "mlflow.db") == 2, process, tracked)
        server.kill()
        server.wait()
        (tracked / "go").touch()
        said_once(ends(process, tracked, 0), uri)
    assert finished_runs(tracked / "mlflow.db") == 2
    check_it_is_as_if_nothing_had_happened(tracked, calm)
    before = complete(tracked)
    with serving(tracked, port):
        assert sync([str(tracked / "small"), "--no-models"], Console(file=io.StringIO())) == 0
    check_mlflow_has_all(f"sqlite:///{tracked / 'mlflow.db'}", tracked)
    check_it_is_as_if_nothing_had_happened(tracked, calm, before)
