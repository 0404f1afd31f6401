"""Importances of functions whose variance is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.importance import divergence, importance, importance_for_front, knob_frame, total_indices
from analysis.table import StudyTable, from_frame


def study(rows: int = 400, seed: int = 0) -> StudyTable:
    random = np.random.default_rng(seed)
    knobs = random.random((rows, 3))
    frame = pd.DataFrame(knobs, columns=["knob/cost", "knob/both", "knob/none"])
    frame["knob/cost"] = frame["knob/cost"].where(frame.index % 7 != 0)
    cost = np.nan_to_num(frame["knob/cost"].to_numpy(), nan=1.0) + 0.3 * knobs[:, 1]
    return from_frame(frame.assign(bytes=cost, accuracy=knobs[:, 1]), {"bytes": "minimize", "accuracy": "maximize"})


def test_total_indices_of_an_additive_function() -> None:
    features = np.random.default_rng(0).random((4000, 3))
    found = total_indices(lambda rows: rows @ np.array([3.0, 4.0, 0.0]), features)
    assert found == pytest.approx([9 / 25, 16 / 25, 0.0], abs=0.03)


def test_total_indices_count_interactions() -> None:
    features = np.random.default_rng(0).choice([-1.0, 1.0], (4000, 2))
    assert total_indices(lambda rows: rows[:, 0] * rows[:, 1], features) == pytest.approx([1.0, 1.0], abs=0.05)
    assert total_indices(lambda rows: np.ones(len(rows)), features).tolist() == [0.0, 0.0]


def test_importance_finds_the_knob_that_matters() -> None:
    found = importance(study(), "accuracy")
    assert found is not None
    assert max(found.shares, key=lambda knob: found.shares[knob]) == "both"
    assert found.shares["none"] < 0.05
    assert found.explained > 0.9


def test_divergence_by_hand() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0])
    # With one count added, spread as all are: 2.5 / 3 and 0.5 / 3 beside 1/2 and 1/2.
    best = np.array([True, True, False, False])
    assert divergence(values, best) == pytest.approx(0.5 * (2.5 / 1.5 - 1) ** 2 + 0.5 * (0.5 / 1.5 - 1) ** 2)
    assert divergence(values, np.ones(4, dtype=bool)) == 0.0
    assert divergence(np.arange(100.0), np.arange(100) < 10) > 1.0


def test_what_sets_the_front_apart() -> None:
    found = importance_for_front(study())
    assert found is not None
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert max(found.shares, key=lambda knob: found.shares[knob]) == "cost"


def test_too_little_to_tell(make: Callable) -> None:
    frame, meta = make(trials=2)
    table = StudyTable(frame, meta, knob_frame)  # type: ignore[arg-type]
    assert importance(table, "accuracy") is None
    assert importance_for_front(table) is None
    same = from_frame(pd.DataFrame({"knob/a": [1] * 20, "y": range(20)}), {"y": "minimize"})
    assert importance(same, "y") is None


def test_words_and_mixed_knobs_are_levels() -> None:
    words = ["one", "two", None, "three"] * 25
    frame = pd.DataFrame({"knob/word": words, "y": [{"one": 0.0, "two": 1.0, "three": 2.0}.get(w, 5.0) for w in words]})
    found = importance(from_frame(frame, {"y": "minimize"}), "y")
    assert found is not None
    assert found.shares["word"] > 0.95
