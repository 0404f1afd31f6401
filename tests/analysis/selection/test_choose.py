"""One point under limits, against a front small enough to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import norm

from analysis.selection.choose import choose
from analysis.selection.limits import read_limit
from analysis.table import StudyTable, TableError, from_frame

#        point   bytes  accuracy  ms   test
ROWS = [
    ("base", 1000.0, 0.900, 9.0, 0.88),
    ("1.1", 400.0, 0.895, 6.0, 0.87),
    ("2.1", 300.0, 0.890, 5.0, 0.86),
    ("3.1", 250.0, 0.850, 4.0, None),
    ("4.1", 240.0, 0.840, 3.0, 0.83),
]
META: dict[str, Any] = {
    "study": "small",
    "objectives": [
        {"name": "weight_bytes", "direction": "minimize", "unit": "B"},
        {"name": "accuracy", "direction": "maximize", "unit": "fraction"},
    ],
    "meters": {
        "weight_bytes": {"kind": "cost", "unit": "B", "direction": "minimize"},
        "accuracy": {"kind": "quality", "unit": "fraction", "direction": "maximize"},
        "latency_ms": {"kind": "cost", "unit": "ms", "direction": "minimize"},
        "loss": {"kind": "quality", "unit": "nat", "direction": "maximize"},
    },
    "baseline": {
        "weight_bytes": {"value": 1000.0}, "accuracy": {"value": 0.90, "stderr": 0.002}, "loss": {"value": -0.5},
    },
}  # fmt: skip


def small(**columns: Any) -> StudyTable:
    names = ["point", "meter/weight_bytes", "meter/accuracy", "meter/latency_ms", "test/accuracy"]
    frame = pd.DataFrame(ROWS, columns=names)
    technique = ["baseline", *["quantize"] * 4]
    steps = [0, 1, 1, 1, 1]
    frame = frame.assign(step=steps, state="complete", technique=technique, sequence=json.dumps([["bits", 4]]))
    frame = frame.assign(artifact="front/x", p_front=0.9, **{"stderr/accuracy": 0.01}, **columns)
    return StudyTable(frame, META, Path("runs/small"))


@pytest.mark.parametrize(
    ("limits", "point", "runner_up"),
    [
        (["weight_bytes<=300"], "2.1", "3.1"),
        (["weight_bytes < 299.9"], "3.1", "4.1"),
        (["accuracy>=0.98*baseline"], "2.1", "1.1"),
        (["accuracy>=baseline*98%"], "2.1", "1.1"),
        (["accuracy>=baseline-0.01"], "2.1", "1.1"),
        (["accuracy ≥ 0.84"], "4.1", "3.1"),
        (["latency_ms<=5"], "2.1", "3.1"),
        (["latency_ms<=5", "accuracy>=0.98*baseline"], "2.1", None),
        ([], "base", "1.1"),
    ],
)
def test_the_best_point_within_the_limits_and_the_next(limits, point, runner_up) -> None:
    choice = choose(small(), limits)
    assert choice.pick is not None
    assert choice.pick.point == point
    assert (choice.runner_up.point if choice.runner_up else None) == runner_up


def test_what_is_free_decides_and_can_be_named() -> None:
    assert choose(small(), ["accuracy>=0.8"]).best == "weight_bytes"
    assert choose(small(), ["weight_bytes<=500"]).best == "accuracy"
    assert choose(small(), ["weight_bytes<=500", "accuracy>=0.8"]).best == "accuracy"
    assert choose(small(), ["weight_bytes<=500"], best="latency_ms").pick.point == "4.1"


def test_the_interval_is_the_normal_one_and_the_probabilities_follow_it() -> None:
    choice = choose(small(), ["accuracy>=0.88"])
    measured = {one.meter: one for one in choice.pick.measured}
    low, high = measured["accuracy"].interval
    assert (low, high) == pytest.approx((0.89 - 1.959964 * 0.01, 0.89 + 1.959964 * 0.01))
    assert choice.pick.p_limits == pytest.approx(norm.cdf(1.0))
    assert "within the noise" in choice.remark
    by_quality = choose(small(), ["weight_bytes<=400"])
    assert by_quality.p_better == pytest.approx(norm.cdf(0.005 / (0.01 * 2**0.5)))


def test_words_hold_the_comparison_and_the_test_reading() -> None:
    cost, quality = choose(small(), ["weight_bytes<=300"]).pick.measured
    assert cost.words == "300 B; 3.33× less than the baseline"
    assert quality.words == "0.89 (95 % interval 0.870 to 0.910); baseline 0.9; held-out test 0.86"


def test_none_says_which_came_nearest() -> None:
    choice = choose(small(), ["latency_ms<=2", "accuracy>=0.85"])
    assert choice.pick is None
    assert "the closest is 4.1 with latency_ms 3 ms and accuracy 0.84" in choice.remark


def test_the_baseline_alone_is_said() -> None:
    assert "no compressed model meets the limits" in choose(small(), ["accuracy>=0.9"]).remark


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top1<=5", "no meter is named top1; study small has weight_bytes"),
        ("acuracy>=0.5", "did you mean accuracy"),
        ("accuracy", "not a limit"),
        ("accuracy>=often", "not a bound"),
        ("accuracy>=1>=2", "not a limit"),
        ("latency_ms<=0.5*baseline", "base model has no reading of latency_ms"),
        ("loss>=0.98*baseline", "a share of a negative baseline"),
    ],
)
def test_a_limit_that_cannot_be_read_is_named(text, message) -> None:
    with pytest.raises(TableError, match=message):
        read_limit(text, small())


def test_a_negative_baseline_can_be_moved() -> None:
    assert read_limit("loss>=baseline-0.1", small()).bound == pytest.approx(-0.6)


def test_an_old_name_is_answered_with_the_new_one() -> None:
    with pytest.raises(TableError, match="neg_mse is now mse, lower is better"):
        read_limit("neg_mse>=-0.1", small())
    assert (
        read_limit("neg_kl>=-0.1", from_frame(pd.DataFrame({"neg_kl": [-0.2]}), {"neg_kl": "maximize"})).bound == -0.1
    )


def test_a_study_without_a_complete_point_is_refused() -> None:
    with pytest.raises(TableError, match="no complete point"):
        choose(small(state="failed"))
