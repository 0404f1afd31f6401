"""Indicators by hand and against moocore."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.pareto.indicators import coverage, epsilon, igd_plus, r2

BOTH = ["minimize", "minimize"]


def points(data: st.DataObject, objectives: int) -> np.ndarray:
    row = st.lists(st.floats(0.1, 10), min_size=objectives, max_size=objectives)
    return np.array(data.draw(st.lists(row, min_size=1, max_size=8)))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), objectives=st.integers(2, 4))
def test_agree_with_moocore(data: st.DataObject, objectives: int) -> None:
    ours, theirs = points(data, objectives), points(data, objectives)
    down = ["minimize"] * objectives
    assert epsilon(ours, theirs, down) == pytest.approx(moocore.epsilon_additive(ours, ref=theirs), abs=1e-12)
    assert igd_plus(ours, theirs, down) == pytest.approx(moocore.igd_plus(ours, ref=theirs), abs=1e-12)
    up = [1.0, *([-1.0] * (objectives - 1))]
    mixed = ["minimize", *(["maximize"] * (objectives - 1))]
    assert epsilon(ours * up, theirs * up, mixed) == pytest.approx(epsilon(ours, theirs, down), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_r2_comes_near_the_exact_one(data: st.DataObject) -> None:
    ours = points(data, 2)
    exact = moocore.r2_exact(ours, ref=[0.0, 0.0])
    assert r2(ours, BOTH, [0.0, 0.0], divisions=2000) == pytest.approx(exact, rel=2e-3)


def test_r2_of_one_point_by_hand() -> None:
    # Weights (0, 1), (1/2, 1/2), (1, 0) on the distances (2, 4): 4, 2, 2.
    assert r2(np.array([[2.0, 4.0]]), BOTH, [0.0, 0.0], divisions=2) == pytest.approx(8 / 3)
    assert r2(np.array([[2.0, 4.0]]), BOTH, [0.0, 0.0], [2.0, 4.0], divisions=2) == pytest.approx((1 + 0.5 + 1) / 3)
    three = r2(np.ones((1, 3)), ["minimize"] * 3, [0.0] * 3, divisions=1)
    assert three == pytest.approx(1.0)


def test_coverage_by_hand() -> None:
    ours, theirs = np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([[1.0, 3.0], [2.0, 2.0], [4.0, 1.0], [0.0, 9.0]])
    assert coverage(ours, theirs, BOTH) == 0.5
    assert coverage(theirs, ours, BOTH) == 0.5
    assert coverage(np.empty((0, 2)), theirs, BOTH) == 0.0
    assert coverage(ours * [1, -1], theirs * [1, -1], ["minimize", "maximize"]) == 0.5


def test_epsilon_in_spans() -> None:
    ours, theirs = np.array([[10.0, 0.8]]), np.array([[5.0, 0.9]])
    directions = ["minimize", "maximize"]
    assert epsilon(ours, theirs, directions) == 5.0
    assert epsilon(ours, theirs, directions, ideal=[0, 1], reference=[100, 0]) == pytest.approx(0.1)
    assert epsilon(theirs, ours, directions, ideal=[0, 1], reference=[100, 0]) == pytest.approx(-0.05)


def test_what_cannot_be_compared_is_refused() -> None:
    some, none = np.ones((1, 2)), np.full((2, 2), np.nan)
    for wrong in (coverage, igd_plus, epsilon):
        with pytest.raises(ValueError, match="no row of finite values"):
            wrong(some, none, BOTH)
    with pytest.raises(ValueError, match="no row of finite values"):
        r2(none, BOTH, [0, 0])
    with pytest.raises(ValueError, match="not better than reference"):
        igd_plus(some, some, BOTH, ideal=[1, 1], reference=[1, 2])
