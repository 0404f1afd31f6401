"""Eviction of the least recently used entries of a store, and atomic removal."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kmr.cache.entry import CARD, TENSORS

ENTRIES, LOCKS, ASIDE, QUARANTINE = "entries", "locks", "aside", "quarantine"
"""The folders of a store."""

_STALE = {ASIDE: 3600.0, LOCKS: 86400.0}
"""Seconds after which the leftovers of a dead process in a folder are deleted."""


def make_room(store: Path, max_bytes: int, *, keep: Path) -> int:
    """Remove the least recently used entries until the rest fits; return the bytes of the rest.

    Damaged entries go first. The entry `keep` stays, whatever its size. Leftovers of dead processes are removed too.
    """
    listed = sorted(_entries(store), key=lambda found: found[0])
    total = sum(size for _, size, _ in listed)
    for _, size, place in listed:
        if total <= max_bytes:
            break
        if place != keep:
            remove(store, place)
            total -= size
    for folder, limit in _STALE.items():
        for place in _children(store / folder):
            with suppress(OSError):
                if time.time() - place.stat().st_mtime > limit:
                    remove(store, place)
    return total


def bytes_in(store: Path) -> int:
    """Return the bytes of all entries, including those in quarantine."""
    return sum(size for _, size, _ in _entries(store))


def remove(store: Path, place: Path) -> None:
    """Remove a file or folder from a store by one rename, then delete it; do nothing if it no longer exists."""
    with suppress(OSError):
        (store / ASIDE).mkdir(parents=True, exist_ok=True)
        moved = store / ASIDE / uuid.uuid4().hex
        os.replace(place, moved)
        if moved.is_dir():
            shutil.rmtree(moved, ignore_errors=True)
        else:
            moved.unlink()


def _entries(store: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield (last use in ns, bytes, folder) of every entry; a damaged one counts as never used."""
    for place in _children(store / QUARANTINE):
        yield 0, sum(_size(file) for file in _children(place)), place
    for outer in _children(store / ENTRIES):
        for inner in _children(outer):
            for place in _children(inner):
                with suppress(OSError):
                    card = (place / CARD).stat()
                    yield card.st_mtime_ns, card.st_size + _size(place / TENSORS), place


def _children(folder: Path) -> list[Path]:
    try:
        return [Path(found.path) for found in os.scandir(folder)]
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
