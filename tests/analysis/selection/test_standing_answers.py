"""The answers against a front small enough to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.selection.standing_answers import Answer, recommend, tolerance
from analysis.table import StudyTable

META: dict[str, Any] = {
    "study": "small",
    "objectives": [
        {"name": "weight_bytes", "direction": "minimize", "unit": "bytes"},
        {"name": "accuracy", "direction": "maximize", "unit": ""},
    ],
    "meters": {"weight_bytes": {"kind": "cost"}, "accuracy": {"kind": "quality"}},
    "baseline": {"weight_bytes": {"value": 1000.0}, "accuracy": {"value": 0.90, "stderr": 0.002}},
    "baseline_test": {"accuracy": {"value": 0.88, "stderr": 0.002}},
}
#        point  bytes   accuracy  test
ROWS = [
    ("0.0", 1000.0, 0.900, None),
    ("1.1", 400.0, 0.895, 0.87),
    ("2.1", 300.0, 0.890, 0.86),
    ("3.1", 250.0, 0.850, None),
    ("4.1", 240.0, 0.840, 0.83),
    ("5.1", 90.0, 0.500, 0.40),
    ("6.1", 600.0, 0.800, None),
]


def small(rows: list[tuple[str, float, float, float | None]] = ROWS, **meta: Any) -> StudyTable:
    frame = pd.DataFrame(rows, columns=["point", "meter/weight_bytes", "meter/accuracy", "test/accuracy"])
    steps = frame["point"].str[-1].astype(int)
    frame = frame.assign(trial=range(len(frame)), step=steps, state="complete", technique="quantize", artifact="a/x")
    frame = frame.assign(sequence='[["bits", 4]]', mlflow_run_id=None, error=None, notes=None, finished=None)
    frame["stderr/accuracy"] = 0.002
    return StudyTable(frame, {**META, **meta}, Path("runs/small"))


def test_the_three_questions() -> None:
    near, quarter, tenth = recommend(small())
    # 0.890 is exactly one point below 0.900: it still counts.
    assert (near.point, quarter.point, tenth.point) == ("2.1", "3.1", "5.1")
    assert near.spent == "300 B, 3.33× less than the baseline"
    assert (near.validation, near.test) == ("0.8900 ± 0.0020", "0.86")
    assert near.baseline == "0.9000 ± 0.0020, test 0.8800 ± 0.0020"
    assert quarter.test == "not measured"
    assert near.artifact == "a/x"


def test_the_sentence_holds_validation_and_test() -> None:
    sentence = recommend(small())[0].sentence
    for part in ("2.1 (quantize: bits=4)", "0.8900 ± 0.0020 on validation", "0.86 on held-out test", "within 1 point"):
        assert part in sentence
    assert Answer("Best", remark="nothing").sentence == "Best: nothing"


def test_the_baseline_itself_is_no_success() -> None:
    near, quarter, _ = recommend(small(ROWS[:1]))
    assert near.point == "0.0"
    assert "no compressed model qualifies" in near.remark
    assert (quarter.point, quarter.remark) == ("", "no complete model meets the limit")


def test_none_near_says_how_far_the_closest_was() -> None:
    near = recommend(small(ROWS[4:6]))[0]
    assert near.point == ""
    assert "the closest loses 0.06" in near.remark


def test_a_difference_inside_the_noise_is_said() -> None:
    near = recommend(small([("1.1", 500.0, 0.899, 0.88)]))[0]
    assert "within the noise" in near.remark


def test_a_limit_is_answered_first() -> None:
    answer = recommend(small(limits={"weight_bytes": 350.0}))[0]
    assert answer.question == "Best accuracy with weight_bytes at most 350 B"
    assert answer.point == "2.1"


def test_a_limit_on_a_quality_is_answered_with_the_lowest_cost() -> None:
    answer = recommend(small(limits={"accuracy": 0.89}))[0]
    assert answer.question == "Lowest weight_bytes with accuracy at least 0.89"
    assert (answer.point, answer.quality, answer.validation) == ("2.1", "accuracy", "0.8900 ± 0.0020")
    assert recommend(small(ROWS[3:], limits={"accuracy": 0.89}))[0].remark == "no complete model meets the limit"


def test_unknown_baseline_is_said() -> None:
    near, quarter, _ = recommend(small(baseline={}))
    assert "baseline's accuracy is not known" in near.remark
    assert "baseline's weight_bytes is not known" in quarter.remark


def test_no_complete_point_gives_no_answer() -> None:
    table = small()
    assert recommend(StudyTable(table.frame.assign(state="failed"), table.meta, table.folder)) == ()


def test_a_single_quality_has_a_best() -> None:
    (answer,) = recommend(small(objectives=META["objectives"][1:]))
    assert (answer.question, answer.point, answer.spent) == ("Best accuracy", "0.0", "")


@pytest.mark.parametrize(
    ("meter", "unit", "baseline", "allowed"),
    [
        ("accuracy", "", 0.9, 0.01),
        ("accuracy", "%", 90.0, 1.0),
        ("cross_entropy", "nats", 2.0, 0.02),
        ("neg_cross_entropy", "nats", -2.0, 0.02),
        ("r2", "", 0.4, 0.01),
    ],
)
def test_tolerance(meter: str, unit: str, baseline: float, allowed: float) -> None:
    assert tolerance(meter, unit, baseline)[0] == pytest.approx(allowed)
