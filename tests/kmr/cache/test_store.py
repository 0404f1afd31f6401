import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmr.cache import CacheWarning, Content, Store, describe, fingerprint, key_of
from kmr.core import KMRError
from kmr.data import Split, forward

BIG = 10**9


def key(number: int) -> str:
    return key_of(number=number)


def place(store: Store, number: int) -> Path:
    return store.folder / "entries" / key(number)[:2] / key(number)[2:4] / key(number)


def numbers(number: int, count: int = 1000) -> dict[str, Tensor]:
    return {"values": torch.full((count,), float(number))}


def aside(store: Store) -> list[str]:
    return os.listdir(store.folder / "aside")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", BIG)


def test_what_is_put_is_got_back_by_any_store_on_the_folder(store: Store) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    tensors = {
        "transposed": base.T,
        "shared": base,
        "view": base[1:, ::2],
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(True),
        "half": base.bfloat16(),
        "nan": torch.tensor([float("nan"), -0.0]),
        "leaf": nn.Parameter(torch.ones(2)),
    }
    metadata = {"z": [0.1, None, {"y": "é\n"}], "a": -0.0, "big": 2**70}
    assert store.put(key(1), tensors, metadata, 2.5)
    found = Store(store.folder, BIG).get(key(1))
    assert found is not None
    assert list(found.metadata) == ["z", "a", "big"]
    assert repr(found.metadata) == repr(metadata)
    assert (found.key, found.seconds, found.tensors.keys()) == (key(1), 2.5, tensors.keys())
    assert abs(found.created - time.time()) < 60
    for name, tensor in tensors.items():
        back = found.tensors[name]
        assert (back.shape, back.dtype, back.requires_grad) == (tensor.shape, tensor.dtype, False)
        assert (
            back.contiguous()
            .reshape(-1)
            .view(torch.uint8)
            .equal(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
        )
    found.tensors["half"].add_(1)  # memory of the caller's own
    assert aside(store) == []


def test_nothing_is_got_where_nothing_was_put(store: Store) -> None:
    assert store.get(key(1)) is None
    assert key(1) not in store
    assert store.statistics().misses == 1


def test_an_entry_that_is_there_stays(store: Store) -> None:
    store.put(key(1), numbers(1), {"first": True})
    assert store.put(key(1), numbers(2), {"first": False})
    found = store.get(key(1))
    assert found is not None
    assert found.metadata == {"first": True}


@pytest.mark.parametrize("bad", ["", "../../etc", "ab" * 31, "AB" * 32, "g" * 64])
def test_only_keys_are_keys(store: Store, bad: str) -> None:
    with pytest.raises(KMRError, match="64 hex digits"):
        store.get(bad)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({}, {"x": float("nan")}),
        ({}, {"x": torch.ones(1)}),
        ({"sparse": torch.eye(2).to_sparse()}, {}),
        ({"meta": torch.empty(2, device="meta")}, {}),
    ],
)
def test_what_cannot_be_kept_exactly_is_refused(store: Store, tensors: Any, metadata: Any) -> None:
    with pytest.raises(KMRError):
        store.put(key(1), tensors, metadata)
    assert store.get(key(1)) is None


def test_a_store_needs_room(tmp_path: Path) -> None:
    with pytest.raises(KMRError, match="max_bytes of a cache must be above 0, not 0"):
        Store(tmp_path, 0)


def test_compute_computes_once(store: Store) -> None:
    ran: list[int] = []

    def function() -> Content:
        ran.append(1)
        time.sleep(0.05)
        return {"values": torch.arange(6.0).reshape(2, 3).T}, {"pair": (1, 2)}

    first, again = store.compute(key(1), function), store.compute(key(1), function)
    assert ran == [1]
    assert first.metadata == again.metadata == {"pair": [1, 2]}
    assert first.tensors["values"].stride() == again.tensors["values"].stride()
    assert torch.equal(first.tensors["values"], again.tensors["values"])
    assert first.seconds == again.seconds >= 0.05
    found = store.statistics()
    assert (found.hits, found.misses) == (1, 1)
    assert 0 < found.seconds_saved < again.seconds
    assert found.bytes == sum(file.stat().st_size for file in place(store, 1).iterdir())


def test_a_failure_is_never_cached(store: Store) -> None:
    def fail() -> Content:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.compute(key(1), fail)
    assert store.compute(key(1), lambda: (numbers(1), {})).tensors["values"][0] == 1
    assert aside(store) == []


def test_a_teachers_logits_are_computed_once(store: Store) -> None:
    torch.manual_seed(0)
    teacher, data = nn.Linear(3, 2), Split((torch.randn(8, 3), torch.zeros(8)), 4)

    def logits() -> Content:
        with torch.no_grad():
            return {"logits": torch.cat([forward(teacher, inputs) for inputs, _ in data.batches()])}, {}

    name = key_of(what="logits", teacher=fingerprint(teacher), data=describe(data))
    first = store.compute(name, logits).tensors["logits"]
    recalled = store.compute(name, lambda: pytest.fail("computed again")).tensors["logits"]
    assert torch.equal(first, recalled)
    assert first.shape == (8, 2)


def _positions(size: int) -> list[int]:
    return sorted({*range(0, size, max(1, size // 12)), size - 2})


@pytest.mark.parametrize("name", ["entry.json", "tensors.safetensors"])
def test_no_damaged_byte_goes_unseen(store: Store, name: str) -> None:
    metadata = {"readings": {"accuracy": [0.9123, 0.011]}}
    store.put(key(1), numbers(1, 40), metadata)
    whole = (place(store, 1) / name).read_bytes()
    for damages, position in enumerate(_positions(len(whole)), start=1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (place(store, 1) / name).write_bytes(damaged)
        with pytest.warns(CacheWarning, match=f"moved the damaged cache entry {key(1)[:12]}… to") as warned:
            assert store.get(key(1)) is None
        assert len(warned) == 1
        assert not place(store, 1).exists()
        assert store.statistics().quarantined == len(os.listdir(store.folder / "quarantine")) == damages
        recomputed = store.compute(key(1), lambda: (numbers(1, 40), metadata))
        assert recomputed.metadata == metadata
        assert (place(store, 1) / "tensors.safetensors").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _other(path: Path) -> None:
    path.write_bytes(b'{"sha256": [[[]]]}' if path.suffix == ".json" else b"\xff" * 100)


@pytest.mark.parametrize("name", ["entry.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", [_cut, _empty, Path.unlink, _folder, _other])
def test_a_file_cut_emptied_gone_or_replaced_is_damage(store: Store, name: str, damage: Any) -> None:
    store.put(key(1), numbers(1), {})
    damage(place(store, 1) / name)
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.get(key(1)) is None
    assert store.get(key(1)) is None
    assert store.statistics().quarantined == 1


def test_an_entry_under_another_key_is_damage(store: Store) -> None:
    store.put(key(1), numbers(1), {})
    place(store, 2).parent.mkdir(parents=True)
    place(store, 1).rename(place(store, 2))
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.get(key(2)) is None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    measure = Store(tmp_path / "one", BIG)
    measure.put(key(0), numbers(0), {})
    size = measure.statistics().bytes
    store = Store(tmp_path / "cache", 3 * size + size // 2)
    for number in range(3):
        store.put(key(number), numbers(number), {})
    assert store.get(key(0)) is not None
    store.touch(key(1))
    store.put(key(3), numbers(3), {})
    assert [key(number) in store for number in range(4)] == [True, True, False, True]
    store.put(key(4), numbers(4), {})
    assert [key(number) in store for number in range(5)] == [False, True, False, True, True]
    assert store.statistics().bytes <= store.max_bytes
    assert aside(store) == []


def test_the_entry_just_written_stays_whatever_its_size(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    for number in range(3):
        store.put(key(number), numbers(number), {})
        assert [key(other) in store for other in range(3)] == [other == number for other in range(3)]


def test_damaged_entries_are_the_first_to_go(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * 4500)
    store.put(key(0), numbers(0), {})
    store.put(key(1), numbers(1), {})
    (place(store, 1) / "entry.json").write_bytes(b"")
    with pytest.warns(CacheWarning):
        store.get(key(1))
    for number in (2, 3):
        store.put(key(number), numbers(number), {})
    assert os.listdir(store.folder / "quarantine") == []
    assert [key(number) in store for number in range(4)] == [True, False, True, True]


def test_what_dead_processes_left_is_cleared_away(tmp_path: Path) -> None:
    store = Store(tmp_path, BIG)
    for name, kept in (("old", False), ("new", True)):
        left = store.folder / "aside" / name
        left.mkdir(parents=True)
        (left / "tensors.safetensors").write_bytes(b"half")
        if not kept:
            os.utime(left, (0, 0))
    store.put(key(1), numbers(1), {})
    assert aside(store) == ["new"]


def test_a_reader_that_loses_a_file_gets_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(key(1), numbers(1), {})
    read = Path.read_bytes

    def lose(path: Path) -> bytes:
        data = read(path)
        if path.name == "entry.json":
            store.remove(key(1))
        return data

    monkeypatch.setattr(Path, "read_bytes", lose)
    assert store.get(key(1)) is None
    assert store.statistics().quarantined == 0


def test_an_entry_replaced_while_it_is_read_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(key(1), numbers(1), {"which": "first"})
    read, replaced = Path.read_bytes, []

    def replace(path: Path) -> bytes:
        data = read(path)
        if path.name == "entry.json" and not replaced:
            replaced.append(path)
            store.remove(key(1))
            store.put(key(1), numbers(2), {"which": "second"})
        return data

    monkeypatch.setattr(Path, "read_bytes", replace)
    found = store.get(key(1))
    assert found is not None
    assert found.metadata == {"which": "second"}
    assert found.tensors["values"][0] == 2


def test_a_passing_error_of_reading_condemns_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(key(1), numbers(1), {})

    def too_many(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", too_many)
        assert store.get(key(1)) is None
    assert store.get(key(1)) is not None


@pytest.mark.parametrize("where", ["replace", "fsync"])
def test_a_full_disk_is_one_warning_and_no_entry(store: Store, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, where, full)
        with pytest.warns(CacheWarning, match=r"cannot write to.*No space left") as warned:
            computed = [store.compute(key(number), lambda n=number: (numbers(n), {})) for number in range(3)]  # type: ignore[misc]
        assert [entry.tensors["values"][0] for entry in computed] == [0, 1, 2]
        assert len(warned) == 1
        assert aside(store) == []
    assert not any(key(number) in store for number in range(3))
    assert store.put(key(1), numbers(1), {})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    store = Store(small_disk / "cache", BIG)
    with pytest.warns(CacheWarning, match="cannot write to") as warned:
        computed = [store.compute(key(number), lambda n=number: (numbers(n, 20_000), {})) for number in range(6)]  # type: ignore[misc]
    assert [entry.tensors["values"][0] for entry in computed] == [0, 1, 2, 3, 4, 5]
    assert len(warned) == 1
    kept = [number for number in range(6) if key(number) in store]
    assert 1 <= len(kept) <= 3
    assert all(store.get(key(number)) is not None for number in kept)
    assert aside(store) == []


def test_a_lock_that_is_held_too_long_is_passed_by(tmp_path: Path) -> None:
    store = Store(tmp_path, BIG, lock_seconds=0.1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store.lock(key(1)) as got:
            assert got
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(10)
        with store.lock(key(2)) as got:
            assert got
        with pytest.warns(CacheWarning, match=r"another process held .* for 0\.1 seconds"):
            assert store.compute(key(1), lambda: (numbers(1), {})).tensors["values"][0] == 1
    finally:
        done.set()
        holder.join()


def test_threads_compute_a_key_once(store: Store) -> None:
    ran: list[int] = []

    def function() -> Content:
        ran.append(1)
        time.sleep(0.2)
        return numbers(1), {}

    threads = [threading.Thread(target=store.compute, args=(key(1), function)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ran == [1]
    found = store.statistics()
    assert (found.hits, found.misses) == (3, 1)


def test_a_folder_that_cannot_be_written_to_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    store = Store(tmp_path / "cache", BIG)
    with pytest.warns(CacheWarning, match="cannot write to") as warned:
        assert store.compute(key(1), lambda: (numbers(1), {})).tensors["values"][0] == 1
    assert len(warned) == 1


def test_what_is_missing_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("filelock", "safetensors"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            with pytest.raises(KMRError, match=f"pip install {module}"):
                Store(tmp_path, BIG)
