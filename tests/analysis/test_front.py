"""The front against its definition, written out pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.front import close_neighbours, front_frame, front_of
from analysis.pareto.dominance import non_dominated, within_noise
from analysis.table import StudyTable


def by_definition(values: np.ndarray, directions: list[str]) -> np.ndarray:
    signs = np.array([1.0 if direction == "minimize" else -1.0 for direction in directions])
    rows = [tuple(row) for row in values * signs]
    finite = np.isfinite(values).all(axis=1)
    mask = np.zeros(len(rows), dtype=bool)
    for i, row in enumerate(rows):
        beaten = any(
            finite[j] and all(a <= b for a, b in zip(other, row, strict=True)) and (other != row or j < i)
            for j, other in enumerate(rows)
            if j != i
        )
        mask[i] = finite[i] and not beaten
    return mask


small = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, float("nan"), float("inf"), float("-inf")])


@settings(deadline=None, max_examples=150)
@given(data=st.data(), objectives=st.integers(1, 4))
def test_agrees_with_the_definition(data: st.DataObject, objectives: int) -> None:
    row = st.lists(small, min_size=objectives, max_size=objectives)
    rows = data.draw(st.lists(row, max_size=12))
    directions = data.draw(
        st.lists(st.sampled_from(["minimize", "maximize"]), min_size=objectives, max_size=objectives)
    )
    values = np.array(rows, dtype=float).reshape(len(rows), objectives)
    np.testing.assert_array_equal(non_dominated(values, directions), by_definition(values, directions))


def test_infinity_never_joins_the_front() -> None:
    values = np.array([[1.0, np.inf], [2.0, 0.5], [-np.inf, 0.1]])
    assert non_dominated(values, ["minimize", "maximize"]).tolist() == [False, True, False]


def test_first_of_equal_rows_is_kept() -> None:
    values = np.array([[2.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert non_dominated(values, ["minimize", "maximize"]).tolist() == [False, True, False]


def test_the_front_of_a_hundred_thousand_points_is_where_the_best_so_far_rises() -> None:
    values = np.random.default_rng(0).random((100_000, 2))
    in_order = values[np.argsort(values[:, 0])]
    best = np.maximum.accumulate(in_order[:, 1])
    rises = in_order[:, 1] > np.concatenate([[-np.inf], best[:-1]])
    assert rises.sum() > 5
    assert np.array_equal(non_dominated(in_order, ["minimize", "maximize"]), rises)


@pytest.mark.parametrize(
    ("values", "directions"),
    [(np.zeros(3), ["minimize"]), (np.zeros((3, 2)), ["minimize"]), (np.zeros((3, 1)), ["up"])],
)
def test_input_that_does_not_fit_is_refused(values: np.ndarray, directions: list[str]) -> None:
    with pytest.raises(ValueError, match=r"direction"):
        non_dominated(values, directions)


def test_only_complete_rows_are_on_the_front(table: StudyTable) -> None:
    front = front_frame(table)
    assert (front["state"] == "complete").all()
    assert front["meter/weight_bytes"].is_monotonic_increasing
    assert front["meter/accuracy"].is_monotonic_increasing
    assert front_of(table).sum() == len(front) > 5


def test_a_failed_row_with_the_best_values_stays_out(table: StudyTable) -> None:
    frame = table.frame.copy()
    frame.loc[3, ["meter/weight_bytes", "meter/accuracy", "state"]] = [1.0, 1.0, "infeasible"]
    assert not front_of(StudyTable(frame, table.meta, table.folder))[3]


def test_front_of_other_meters(table: StudyTable) -> None:
    cheapest = front_frame(table, ("latency_ms",))
    complete = table.frame[table.complete]
    assert cheapest["meter/latency_ms"].tolist() == [complete["meter/latency_ms"].min()]


def test_noise_is_the_standard_error_of_the_difference() -> None:
    values = np.array([0.80, 0.84, 0.90, 0.95])
    stderrs = np.array([0.03, 0.03, 0.01, np.nan])
    # 0.04 < 0.0424, 0.06 > 0.0316, 0.05 > 0.01
    assert within_noise(values, stderrs).tolist() == [True, False, False]
    assert within_noise(np.array([0.5]), np.array([0.1])).tolist() == []


def test_close_neighbours_name_meter_and_points(table: StudyTable) -> None:
    pairs = close_neighbours(table)
    order = front_frame(table)["point"].tolist()
    assert pairs
    for pair in pairs:
        assert pair.meter == "accuracy"
        assert order.index(pair.right) == order.index(pair.left) + 1
        assert pair.difference < pair.stderr
