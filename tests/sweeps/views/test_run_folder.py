"""Opening a study that is there: all of it from the storage, and nothing written."""

import shutil

import pandas as pd
import pytest

from analysis.table import load
from sweeps.errors import SweepError
from sweeps.views.run_folder import open_run


def test_the_table_made_from_the_storage_is_the_one_the_sweep_wrote(ran) -> None:
    opened, written = open_run(ran), load(ran)
    table = opened.table()
    pd.testing.assert_frame_equal(table.frame, written.frame, check_dtype=False)
    assert dict(table.meta) == dict(written.meta)
    assert opened.counts["complete"] == 4
    assert "running" not in opened.counts
    assert {path.name for path in (ran / "front").iterdir()} == set(opened.front.members)


def test_opening_writes_nothing_even_where_a_line_is_half_written(ran, tmp_path) -> None:
    shutil.copytree(ran, tmp_path / "small")
    journal = tmp_path / "small" / "journal.log"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "worker')
    before = journal.read_bytes()
    assert len(open_run(tmp_path / "small").state.records) == 4
    assert journal.read_bytes() == before


def test_a_folder_is_enough_without_the_config_and_under_another_name(ran, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(ran / "journal.log", tmp_path / "other")
    opened = open_run(tmp_path / "other")
    assert opened.card.config.name == "small"
    assert opened.card.config.limits == {"weight_bytes": 5000.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "not a run folder"),
        (lambda folder: (folder.mkdir(), (folder / "journal.log").touch()), "has no study"),
        (lambda folder: (folder.mkdir(), (folder / "config.yaml").write_text("[1")), "cannot be read"),
        (lambda folder: (folder.mkdir(), (folder / "config.yaml").write_text("[1]")), "is not a config"),
    ],
)
def test_what_is_no_run_folder_is_named(tmp_path, make, message) -> None:
    make(tmp_path / "x")
    with pytest.raises(SweepError, match=message):
        open_run(tmp_path / "x")


def test_a_study_of_another_tool_is_named(tmp_path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    optuna.create_study(study_name="theirs", storage=storage)
    with pytest.raises(SweepError, match="has no card, because an older version wrote it"):
        open_run(tmp_path)
