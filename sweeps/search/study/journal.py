"""Optuna's journal file, with fast reads, safe writes and a repair after a kill."""

import copy
import json
import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from sweeps.errors import SweepError
from sweeps.search.study.feed import Feed

JOURNAL = "journal.log"


def journal_to_read(folder: Path) -> BaseStorage:
    """Open a journal without repair; an incomplete last line is skipped, as a running sweep may be writing it.

    Raises:
        SweepError: the journal is damaged.
    """
    try:
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    except (ValueError, KeyError, OSError) as error:
        raise SweepError(
            f"{folder / JOURNAL} cannot be read ({type(error).__name__}): run the sweep's command again to repair it"
        ) from error


class _JournalStorage(JournalStorage):
    """Journal storage that rereads only the trials that may have changed, as each trial causes about ten reads."""

    def __init__(self, journal: JournalFileBackend) -> None:
        self._listed: dict[int, list[FrozenTrial]] = {}
        self._feeds: dict[int, Feed] = {}
        super().__init__(journal)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of a study, or those in some states, by number."""
        with self._thread_lock:
            self._sync_with_backend()
            replayed = self._replay_result
            replayed.get_study(study_id)  # raises KeyError for an unknown study
            listed, feed = self._listed.setdefault(study_id, []), self._feeds.setdefault(study_id, Feed())
            trials, ids = replayed._trials, replayed._study_id_to_trial_ids[study_id]
            for trial in feed.read(len(ids), lambda number: trials[ids[number]]):
                listed[trial.number : trial.number + 1] = [trial]
            if states is None:
                found = listed.copy()
            elif any(state in states for state in TrialState if state.is_finished()):
                found = [trial for trial in listed if trial.state in states]
            else:
                found = [listed[number] for number in feed.open if listed[number].state in states]
            return copy.deepcopy(found) if deepcopy else found


class _Journal(JournalFileBackend):
    """Journal that waits for the disk only when a trial ends or the study changes.

    A trial writes ten lines, and Optuna's backend waits for the disk after each. After a killed process the system
    still has all lines; after a power failure only a running trial may be lost, which is retried anyway.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._mine = path, JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self._mine)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append one line for each log."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._mine.acquire()
        try:
            with self._path.open("ab", buffering=0) as journal:
                whole = journal.tell()
                try:
                    left = memoryview(lines.encode())
                    while left:
                        left = left[journal.write(left) :]
                    if not all(map(_is_on_the_way, logs)):
                        os.fsync(journal.fileno())
                except OSError:  # a full disk may leave half a line, which would corrupt the next one
                    os.ftruncate(journal.fileno(), whole)
                    raise
        finally:
            self._mine.release()


def _is_on_the_way(log: dict[str, Any]) -> bool:
    """Tell whether a log only records progress of a trial: it neither ends one nor changes the study."""
    is_new_trial = "datetime_start" in log and "study_id" in log
    return is_new_trial or ("trial_id" in log and "values" not in log)


def mend_journal(path: Path) -> None:
    """Remove an incomplete last line, left by a killed process, from a journal; keep the line in a file beside it.

    Raises:
        SweepError: the journal is damaged elsewhere, or cannot be read.
    """
    if not path.exists():
        return
    try:
        lines = re.findall(rb"[^\n]*\n|[^\n]+\Z", path.read_bytes())
        if lines and not (lines[-1].endswith(b"\n") and _is_json(lines[-1])):
            torn = lines.pop()
            path.with_suffix(".torn").write_bytes(torn)
            with path.open("r+b") as journal:
                journal.truncate(sum(map(len, lines)))
    except OSError as error:
        raise SweepError(f"{path} cannot be read ({error.strerror}): choose another output_dir or name") from error
    for number, line in enumerate(lines, start=1):
        if not _is_json(line):
            raise SweepError(f"{path} is damaged at line {number}: restore it from a backup")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
