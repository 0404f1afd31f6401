"""The benchmark of models as people bring them: its bar, its rows, and that its judge sees what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import any_model
from benchmarks.any_model_rows import ROWS
from benchmarks.any_model_rows.judge import REFUSED, SKIPPED, UNEXPECTED, WORKS, WRONG, judge

TENSORS = ROWS["tensors"]
FAST = replace(TENSORS, epochs=2, trials=2, learns={}, export=None, rules=("quantize",))


def test_there_are_enough_rows_and_the_quick_ones_are_among_them() -> None:
    assert sum(not row.needs for row in ROWS.values()) >= any_model.ROWS_BAR
    assert set(any_model.QUICK) <= set(ROWS)
    assert "wrong numbers 0, raw errors 0, at least 54 work" in (any_model.__doc__ or "")


def test_a_row_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = judge(FAST, tmp_path)
    assert (result.verdict, result.ours) == (WORKS, pytest.approx(result.plain)), result.why


def test_a_value_that_is_not_the_plain_one_is_a_wrong_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    truth = FAST.truth
    assert truth is not None
    off = replace(FAST, truth=lambda model: {name: value + 0.01 for name, value in truth(model).items()})
    result = judge(off, tmp_path)
    assert result.verdict == WRONG
    assert "in plain PyTorch, reported is" in result.why


def test_a_refusal_must_come_and_say_what_the_row_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = ROWS["labels_from_one"]
    for name, judged, verdict in (
        ("right", row, REFUSED),
        ("other", replace(row, refuses=("no such word",)), UNEXPECTED),
        ("silent", replace(FAST, refuses=("anything",)), WRONG),
        ("missing", replace(FAST, needs=("no_such_package",)), SKIPPED),
    ):
        (tmp_path / name).mkdir()
        assert judge(judged, tmp_path / name).verdict == verdict, name
