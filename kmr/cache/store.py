"""A store of results under keys: a folder of limited size, shared by any number of processes.

    entries/ab/cd/<key>/    one entry: tensors.safetensors and entry.json, whose modification time is its last use
    locks/<key>.lock        held by the process that computes the key; the system releases it if the process dies
    aside/                  entries being written or removed
    quarantine/             damaged entries, evicted first

An entry appears and disappears by one rename, so that no process sees a part of one. A lost race costs a process its
work and nothing else: every entry is complete and valid, whichever process wrote it.
"""

import errno
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

from torch import Tensor

from kmr.cache.entry import (
    CARD,
    TENSORS,
    Content,
    Damaged,
    Entry,
    check_content,
    check_installed,
    read_entry,
    write_entry,
)
from kmr.cache.eviction import ASIDE, ENTRIES, LOCKS, QUARANTINE, bytes_in, make_room, remove
from kmr.cache.statistics import Statistics, warn
from kmr.core import KMRError

_KEY = re.compile(r"[0-9a-f]{64}")
_DAMAGE = frozenset({errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR})
"""Read errors that a retry does not fix."""


@final
class Store:
    """A cache on disk of tensors and JSON under sha256 keys.

    Args:
        folder: created if it does not exist; any number of processes may share it.
        max_bytes: the size limit; the least recently used entries are evicted until the rest fits. The entry just
            written stays, whatever its size.
        lock_seconds: the longest wait for another process that computes the same key, before computing it as well.

    Raises:
        KMRError: `max_bytes` is not positive, or safetensors or filelock is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int, *, lock_seconds: float = 3600.0) -> None:
        if max_bytes <= 0:
            raise KMRError(f"max_bytes of a cache must be above 0, not {max_bytes}")
        check_installed()
        _filelock()
        self.folder = Path(folder).absolute()
        self.max_bytes = max_bytes
        self.lock_seconds = lock_seconds
        self._counts = Statistics()
        self._guard = threading.Lock()
        self._room: float = 0.0
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r}, {self.max_bytes})"

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[str, int]]:
        """Pickle the settings alone, not this process's counts."""
        return partial(Store, lock_seconds=self.lock_seconds), (str(self.folder), self.max_bytes)

    def __contains__(self, key: str) -> bool:
        """Tell whether an entry exists, without reading it; it may still be damaged or removed before it is read."""
        return (self._place(key) / CARD).is_file()

    def get(self, key: str) -> Entry | None:
        """Return the entry under a key with its digests checked, or None.

        A damaged entry is moved to quarantine with a warning and counts as missing.
        """
        started = time.perf_counter()
        entry = self._read(key)
        self._count(entry, time.perf_counter() - started)
        return entry

    def put(self, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], seconds: float = 0.0) -> bool:
        """Store tensors and metadata under a key; an existing entry is not changed. Return whether an entry exists now.

        If the disk cannot be written to (it may be full), the store warns once.

        Raises:
            KMRError: a tensor or metadata value cannot be stored exactly.
        """
        return key in self or self._write(key, check_content((tensors, metadata)), seconds) is not None

    def compute(self, key: str, function: Callable[[], Content]) -> Entry:
        """Return the entry under a key; compute it if it is missing, in one process at a time.

        An exception of the function is passed on, and nothing is stored. A computed and a recalled entry are alike: the
        tensors are on the CPU, and the metadata has been JSON.
        """
        started = time.perf_counter()
        entry = self._read(key)
        spent = time.perf_counter() - started
        if entry is not None:
            self._count(entry, spent)
            return entry
        with self.lock(key):
            started = time.perf_counter()
            entry = self._read(key)
            self._count(entry, time.perf_counter() - started)
            if entry is not None:
                return entry
            started = time.perf_counter()
            content = check_content(function())
            seconds = time.perf_counter() - started
            written = self._write(key, content, seconds)
        return written or Entry(key, dict(content[0]), dict(content[1]), seconds, time.time())

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Keep other processes and threads from computing a key; yield whether the lock is held.

        It is not held if another process held it for all of `lock_seconds`, or if the folder does not support locks.
        The body may then run in two processes, which only costs time. A lock ends with its process.
        """
        library = _filelock()
        path = self.folder / LOCKS / f"{self._place(key).name}.lock"
        lock: Any = None
        try:
            (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
            lock = library.FileLock(str(path), timeout=self.lock_seconds)
            lock.acquire()
            with suppress(OSError):
                os.utime(path)
        except library.Timeout:
            warn(f"another process held {path} for {self.lock_seconds:g} seconds: computing without waiting any longer")
            lock = None
        except (OSError, NotImplementedError) as error:
            self._warn_of_disk("cannot make locks", error)
            lock = lock if lock is not None and lock.is_locked else None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def remove(self, key: str) -> None:
        """Remove an entry permanently; do nothing if it does not exist."""
        remove(self.folder, self._place(key))

    def touch(self, key: str) -> None:
        """Make an entry the most recently used one."""
        now = time.time_ns()
        with suppress(OSError):
            os.utime(self._place(key) / CARD, ns=(now, now))

    def statistics(self) -> Statistics:
        """Return this process's counts, and the bytes of all entries in the store."""
        with self._guard:
            return replace(self._counts, bytes=bytes_in(self.folder))

    def _place(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise KMRError(f"invalid cache key: {key!r}; use the 64 hex digits that key_of returns")
        return self.folder / ENTRIES / key[:2] / key[2:4] / key

    def _count(self, entry: Entry | None, spent: float) -> None:
        with self._guard:
            had = self._counts
            self._counts = (
                replace(had, misses=had.misses + 1)
                if entry is None
                else replace(had, hits=had.hits + 1, seconds_saved=had.seconds_saved + entry.seconds - spent)
            )

    def _read(self, key: str) -> Entry | None:
        place = self._place(key)
        reason = ""
        # Between reading the two files, another process may remove the entry and a third rewrite it, so an entry that
        # looks damaged is read once more.
        for _ in range(2):
            try:
                entry = read_entry(key, (place / CARD).read_bytes(), (place / TENSORS).read_bytes())
            except Damaged as damage:
                reason = str(damage)
            except OSError as error:
                if error.errno not in _DAMAGE or not place.exists():
                    return None
                reason = f"{Path(str(error.filename)).name}: {error.strerror}"
            else:
                self.touch(key)
                return entry
        self._quarantine(key, reason)
        return None

    def _quarantine(self, key: str, reason: str) -> None:
        with suppress(OSError):
            (self.folder / QUARANTINE).mkdir(parents=True, exist_ok=True)
            os.replace(self._place(key), self.folder / QUARANTINE / f"{key}.{uuid.uuid4().hex}")
        with self._guard:
            self._counts = replace(self._counts, quarantined=self._counts.quarantined + 1)
        warn(f"moved the damaged cache entry {key[:12]}… to {self.folder / QUARANTINE}: {reason}")

    def _write(self, key: str, content: Content, seconds: float) -> Entry | None:
        place = self._place(key)
        entry = Entry(key, dict(content[0]), dict(content[1]), seconds, time.time())
        files = write_entry(entry)
        aside = self.folder / ASIDE / uuid.uuid4().hex
        try:
            aside.mkdir(parents=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                _write_through(aside / name, data)
            os.replace(aside, place)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if key in self:
                return entry  # another process was first
            self._warn_of_disk(f"cannot store {sum(map(len, files.values()))} bytes", error)
            return None
        self.touch(key)
        with self._guard:
            self._room -= sum(map(len, files.values()))
            if self._room < 0:
                # Other processes write too, so the folder is measured again long before this one alone could fill it.
                self._room = (self.max_bytes - make_room(self.folder, self.max_bytes, keep=place)) / 8
        return entry

    def _warn_of_disk(self, what: str, error: BaseException) -> None:
        if "disk" not in self._warned:
            self._warned.add("disk")
            warn(f"cannot write to the cache in {self.folder} ({what}: {error}): results are computed each time")


def _write_through(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _filelock() -> Any:
    try:
        import filelock
    except ImportError as error:
        raise KMRError(f"the cache needs file locks ({error}): pip install filelock") from None
    return filelock
