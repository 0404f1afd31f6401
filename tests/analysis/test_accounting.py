"""Counts and sums of a table written by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.accounting import counts, failures, headline, models, time_spent, warnings
from analysis.table import StudyTable


@pytest.fixture
def ledger() -> StudyTable:
    frame = pd.DataFrame(
        {
            "point": ["a", "b", "c", "d"],
            "trial": [-1, 0, 1, 2],
            "step": [0, 1, 1, 1],
            "technique": ["baseline", "", "", ""],
            "meter/x": [1.0, None, None, None],
            "state": ["complete", "failed", "failed", "retried"],
            "error": [None, "OOM\n  line 3", "OOM\n  line 9", None],
            "notes": ["layer x skipped\nlayer y skipped", "layer x skipped", None, " "],
            "seconds/rule": [1.0, 1.0, None, 0.0],
            "seconds/finetune": [6.0, 0.0, 0.0, 0.0],
        }
    )
    meta = {"study": "s", "objectives": [{"name": "x", "direction": "minimize"}], "meters": {}}
    return StudyTable(frame, meta, Path("runs/s"))


def test_models_are_counted_with_the_base_model(ledger: StudyTable) -> None:
    assert models(ledger) == (
        ("measured, the base model among them", "1"),
        ("on the front", "1"),
        ("ended without a model: failed", "2"),
        ("ended without a model: retried", "1"),
    )
    gone = StudyTable(ledger.frame.assign(**{"meter/x": [float("inf"), None, None, None]}), ledger.meta, ledger.folder)
    assert models(gone)[:3] == (
        ("measured", "0"), ("on the front", "0"), ("without a finite value of every objective", "1"),
    )  # fmt: skip


def test_failures_are_grouped_by_first_line(ledger: StudyTable) -> None:
    assert failures(ledger) == (("OOM", 2, ("b", "c")), ("no error recorded", 1, ("d",)))


def test_warnings_are_grouped_line_by_line(ledger: StudyTable) -> None:
    assert warnings(ledger) == (("layer x skipped", 2, ("a", "b")), ("layer y skipped", 1, ("a",)))


def test_time_adds_up(ledger: StudyTable) -> None:
    spent = {entry.activity: (entry.seconds, entry.share) for entry in time_spent(ledger)}
    assert spent["compressing (rules)"] == (2.0, 0.25)
    assert spent["fine-tuning"] == (6.0, 0.75)
    assert spent["cache and other"] == (0.0, 0.0)


def test_a_table_without_rows_has_nothing(ledger: StudyTable) -> None:
    empty = StudyTable(ledger.frame.iloc[:0], ledger.meta, ledger.folder)
    assert models(empty) == (("measured", "0"), ("on the front", "0"))
    assert failures(empty) == warnings(empty) == ()
    assert all(entry.share == 0.0 for entry in time_spent(empty))


def test_counts_list_the_trials_by_state(ledger: StudyTable) -> None:
    meta = {**ledger.meta, "trials": {"asked": 1200, "duplicate": 3, "target": 9, "odd_one": 2, "flag": True}}
    table = StudyTable(ledger.frame, {**meta, "cache": {"hits": 5, "seconds_saved": 75.2}}, ledger.folder)
    assert counts(table) == (
        ("trials finished", "1,200"),
        ("duplicate", "3"),
        ("odd one", "2"),
        ("moves recalled from the cache", "5"),
        ("time saved by the cache", "1 min 15 s"),
    )
    assert counts(StudyTable(ledger.frame, {**meta, "trials": None}, ledger.folder)) == ()


def test_the_headline_has_the_same_counts(ledger: StudyTable) -> None:
    trials = {"asked": 64, "complete": 58, "failed": 0, "infeasible": 3, "retried": 3, "target": 64}
    table = StudyTable(ledger.frame, {**ledger.meta, "trials": trials}, ledger.folder)
    assert headline(table) == "61 of 64 planned: 58 complete, 3 infeasible, 3 retried"
    assert dict(counts(table))["trials finished"] == "61"
    assert headline(ledger) == "4 trials"
