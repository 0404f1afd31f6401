"""Numbers and sequences as a person reads them."""

from __future__ import annotations

import math

import pytest

from analysis.wording import axis_label, duration, listing, plural, quantity, ratio, sequence


@pytest.mark.parametrize(
    ("value", "unit", "stderr", "text"),
    [
        (41_234, "bytes", math.nan, "41.23 kB"),
        (999, "B", math.nan, "999 B"),
        (2_500_000_000, "bytes", math.nan, "2.5 GB"),
        (31_200_000, "", math.nan, "31.2 M"),
        (0.91234, "", 0.0041, "0.9123 ± 0.0041"),
        (4.2, "ms", 0.13, "4.20 ± 0.13 ms"),
        (0, "ms", math.nan, "0 ms"),
        (-1.5, "nats", math.nan, "-1.5 nats"),
        (1e-7, "", math.nan, "1e-07"),
        (120.0, "ms", math.nan, "120 ms"),
        (math.nan, "ms", 0.1, "–"),
        (math.inf, "", math.nan, "–"),
    ],
)
def test_quantity(value: float, unit: str, stderr: float, text: str) -> None:
    assert quantity(value, unit, stderr) == text


def test_ratio() -> None:
    assert ratio(10.0, 100.0) == "10× less"
    assert ratio(100.0, 50.0) == "2× more"
    assert ratio(100.0, 100.1) == "as much"
    assert ratio(0.0, 100.0) == ratio(1.0, math.nan) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[["prune", 0.5], ["bits", 8]]', "prune=0.5 → bits=8"),
        ('[["order", "a>b"]]', "order=a>b"),
        ("[]", "base model"),
        ("no json", "no json"),
        ("[1, 2]", "[1, 2]"),
        (None, "–"),
    ],
)
def test_sequence(text: object, words: str) -> None:
    assert sequence(text) == words


def test_small_words() -> None:
    assert [duration(seconds) for seconds in (0.44, 200, 7500, math.nan)] == ["0.4 s", "3 min 20 s", "2 h 05 min", "–"]
    assert axis_label("latency_ms", "ms", "minimize") == "latency_ms, lower is better", "the name says the unit"
    assert axis_label("cross_entropy", "nat", "minimize") == "cross_entropy (nat), lower is better"
    assert axis_label("accuracy", "fraction", "maximize") == "accuracy, higher is better"
    assert [listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert (plural(1, "trial"), plural(1200, "trial")) == ("1 trial", "1,200 trials")
