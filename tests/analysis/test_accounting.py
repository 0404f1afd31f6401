"""Counts and sums of a table written by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.accounting import counts, failures, states, time_spent, warnings
from analysis.table import StudyTable


@pytest.fixture
def ledger() -> StudyTable:
    frame = pd.DataFrame(
        {
            "point": ["a", "b", "c", "d"],
            "state": ["complete", "failed", "failed", "interrupted"],
            "error": [None, "OOM\n  line 3", "OOM\n  line 9", None],
            "notes": ["layer x skipped\nlayer y skipped", "layer x skipped", None, " "],
            "seconds/rule": [1.0, 1.0, None, 0.0],
            "seconds/finetune": [6.0, 0.0, 0.0, 0.0],
        }
    )
    meta = {"study": "s", "objectives": [{"name": "x", "direction": "minimize"}], "meters": {}}
    return StudyTable(frame, meta, Path("runs/s"))


def test_states_are_counted(ledger: StudyTable) -> None:
    assert states(ledger) == {"complete": 1, "failed": 2, "infeasible": 0, "interrupted": 1}


def test_failures_are_grouped_by_first_line(ledger: StudyTable) -> None:
    assert failures(ledger) == (("OOM", 2, ("b", "c")), ("no error recorded", 1, ("d",)))


def test_warnings_are_grouped_line_by_line(ledger: StudyTable) -> None:
    assert warnings(ledger) == (("layer x skipped", 2, ("a", "b")), ("layer y skipped", 1, ("a",)))


def test_time_adds_up(ledger: StudyTable) -> None:
    spent = {entry.activity: (entry.seconds, entry.share) for entry in time_spent(ledger)}
    assert spent["compressing (rules)"] == (2.0, 0.25)
    assert spent["fine-tuning"] == (6.0, 0.75)
    assert spent["other"] == (0.0, 0.0)


def test_a_table_without_rows_has_nothing(ledger: StudyTable) -> None:
    empty = StudyTable(ledger.frame.iloc[:0], ledger.meta, ledger.folder)
    assert set(states(empty).values()) == {0}
    assert failures(empty) == warnings(empty) == ()
    assert all(entry.share == 0.0 for entry in time_spent(empty))


def test_counts_say_what_became_of_the_trials(ledger: StudyTable) -> None:
    meta = {**ledger.meta, "trials": {"asked": 1200, "served": 3, "target": 9, "odd_one": 2, "flag": True}}
    table = StudyTable(ledger.frame, {**meta, "cache": {"hits": 5}}, ledger.folder)
    assert counts(table) == (
        ("trials finished", "1,200"),
        ("served from an earlier trial", "3"),
        ("odd one", "2"),
        ("steps recalled from the cache", "5"),
    )
    assert counts(StudyTable(ledger.frame, {**meta, "trials": None}, ledger.folder)) == ()
