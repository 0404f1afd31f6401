"""Contracts of the journal a study is kept in."""

import errno
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.search.study.journal import JOURNAL, mend_journal
from sweeps.search.study.storage import open_storage

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}


def study_in(folder: Path) -> optuna.Study:
    """Make a study in a folder's journal, or open it."""
    storage = open_storage(None, folder)
    return optuna.create_study(study_name="s", storage=storage, directions=["minimize"] * 2, load_if_exists=True)


def test_the_journal_waits_for_the_disk_where_a_trial_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_in(tmp_path)
    waits: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (waits.append(handle), real(handle)))
    trial = study.ask(SPACE)
    trial.set_user_attr("owner", "me")
    assert not waits
    before = (tmp_path / JOURNAL).read_bytes()
    assert before.endswith(b"\n")
    assert b'"owner"' in before
    study.tell(trial, (1.0, 2.0))
    assert len(waits) == 1
    study.set_user_attr("name", "mine")
    assert len(waits) == 2
    plain = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    assert optuna.load_study(study_name=study.study_name, storage=plain).trials[0].values == [1.0, 2.0]


def test_a_journal_lists_its_trials_as_they_are_while_they_change(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    study = study_in(tmp_path)
    plain = JournalStorage(JournalFileBackend(str(path)))
    other = optuna.load_study(study_name="s", storage=plain)
    study.enqueue_trial({"x": 0.25})

    def both(states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        mine, theirs = (each.get_trials(deepcopy=False, states=states) for each in (study, other))
        assert mine == theirs
        return mine

    assert [trial.state for trial in both()] == [TrialState.WAITING]
    first, second = study.ask(SPACE), other.ask(SPACE)
    assert [trial.number for trial in both((TrialState.RUNNING,))] == [0, 1]
    other.tell(second, (0.0, 1.0))
    assert [trial.number for trial in both((TrialState.RUNNING, TrialState.WAITING))] == [0]
    first.set_user_attr("seen", 1)
    assert both()[0].user_attrs == {"seen": 1}
    study.tell(first, (1.0, 0.0))
    other.add_trial(create_trial(values=(0.5, 0.5), params={"x": 0.5}, distributions=SPACE))
    assert [trial.number for trial in both((TrialState.COMPLETE,))] == [0, 1, 2]
    assert both((TrialState.RUNNING,)) == []
    both().clear()
    assert len(both()) == 3
    study.get_trials()[0].user_attrs["seen"] = 2
    assert both()[0].user_attrs == {"seen": 1}
    with pytest.raises(KeyError):
        study._storage.get_all_trials(7)


def test_what_a_full_disk_took_of_a_line_is_cut_off_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_in(tmp_path)
    trial = study.ask(SPACE)
    whole = (tmp_path / JOURNAL).read_bytes()
    real = Path.open

    class Full:
        """A file on a disk with room for 20 more bytes."""

        def __init__(self, handle: Any) -> None:
            self._handle, self._room = handle, 20

        def __getattr__(self, name: str) -> Any:
            return getattr(self._handle, name)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self._handle.close()

        def write(self, given: bytes) -> int:
            if not self._room:
                raise OSError(errno.ENOSPC, "No space left on device")
            written, self._room = self._handle.write(given[: self._room]), 0
            return int(written)

    monkeypatch.setattr(Path, "open", lambda path, *how, **more: Full(real(path, *how, **more)))
    with pytest.raises(OSError, match="No space left"):
        trial.set_user_attr("long", "y" * 4000)
    monkeypatch.undo()
    assert (tmp_path / JOURNAL).read_bytes() == whole
    study.tell(trial, (0.0, 1.0))
    assert study_in(tmp_path).trials[0].values == [0.0, 1.0]


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "wor', b'{"op_code": 4, "wor\n', b"\0\0\0\n", b"\r\0\r", b"\n"])
def test_a_last_line_that_is_no_log_is_cut_off_and_kept_aside(tmp_path: Path, torn: bytes) -> None:
    study = study_in(tmp_path)
    study.tell(study.ask(SPACE), (0.0, 1.0))
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    for _ in range(2):
        mend_journal(journal)
        assert journal.read_bytes() == whole
    assert journal.with_suffix(".torn").read_bytes() == torn
    assert study_in(tmp_path).trials[0].values == [0.0, 1.0]
