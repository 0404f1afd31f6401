import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kmr.cache import Store

Start = Callable[..., subprocess.Popen[str]]


def ready(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def results(*processes: subprocess.Popen[str]) -> list[Any]:
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [json.loads(output.splitlines()[-1]) for output, _ in said]


def test_two_processes_compute_a_key_once(tmp_path: Path, start: Start) -> None:
    processes = start("compute", tmp_path), start("compute", tmp_path)
    ready(*processes)
    found = results(*processes)
    assert sorted(result["ran"] for result in found) == [0, 1]
    assert [result["values"] for result in found] == [[0.0, 1.0, 2.0]] * 2


def test_a_lock_dies_with_its_process(tmp_path: Path, start: Start, workers: ModuleType) -> None:
    holder = start("hold", tmp_path)
    ready(holder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    before = time.perf_counter()
    with Store(tmp_path, 10**9, lock_seconds=30).lock(workers.key(0)) as held:
        assert held
    assert time.perf_counter() - before < 25, "the lock was free at once, not after its time limit"


def test_a_process_killed_while_writing_leaves_no_half_entry(tmp_path: Path, start: Start, workers: ModuleType) -> None:
    # Each writer is killed at another moment of its writing.
    writers = [start("put", tmp_path / str(turn), 10_000) for turn in range(3)]
    seen = 0
    for turn, writer in enumerate(writers):
        ready(writer)
        assert writer.stdout is not None
        while writer.stdout.readline() != f"{2 + turn}\n":
            pass
        time.sleep(0.0007 * turn)
        writer.kill()
        writer.wait()
        store = Store(tmp_path / str(turn), 10**9)
        visible = [number for number in range(60) if workers.key(number) in store]
        assert visible == list(range(len(visible)))
        for number in visible:
            entry = store.get(workers.key(number))
            assert entry is not None
            assert torch.equal(entry.tensors["values"], workers.large(number)["values"])
        found = store.statistics()
        assert (found.quarantined, found.misses) == (0, 0)
        # What was left aside hinders nobody.
        next_number = len(visible)
        assert store.put(workers.key(next_number), workers.large(next_number), {})
        seen += len(visible)
    assert seen >= 9


def test_processes_that_evict_and_read_at_once_see_whole_entries(
    tmp_path: Path, start: Start, workers: ModuleType
) -> None:
    processes = [start("churn", tmp_path, seed) for seed in range(2)]
    ready(*processes)
    for result in results(*processes):
        assert result == {"wrong": 0, "quarantined": 0, "lookups": 60}
    store = Store(tmp_path, 6 * 4 * workers.LARGE)
    store.put(workers.key(100), workers.large(100), {})
    assert store.statistics().bytes <= store.max_bytes
    assert os.listdir(tmp_path / "aside") == []
