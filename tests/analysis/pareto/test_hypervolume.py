"""Hypervolume against boxes, inclusion and exclusion, and counted cells."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.pareto.hypervolume import history, hypervolume, hypervolume_share


def by_inclusion_and_exclusion(costs: np.ndarray, reference: np.ndarray) -> float:
    total = 0.0
    for size in range(1, len(costs) + 1):
        for chosen in combinations(costs, size):
            sides = np.clip(reference - np.max(chosen, axis=0), 0, None)
            total += (-1) ** (size + 1) * float(sides.prod())
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_one_point_is_a_box(objectives: int) -> None:
    values = np.full((1, objectives), 0.5)
    assert hypervolume(values, [2.0] * objectives, ["minimize"] * objectives) == pytest.approx(1.5**objectives)


def test_a_staircase_adds_its_steps() -> None:
    values = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0]])
    assert hypervolume(values, [4.0, 4.0], ["minimize", "minimize"]) == pytest.approx(3 * 1 + 2 * 1 + 1 * 1)


def test_cost_against_quality() -> None:
    values = np.array([[10.0, 0.9], [4.0, 0.7]])
    # From the reference (20, 0.5): the small model adds 16 x 0.2, the good one 10 x 0.2 above it.
    assert hypervolume(values, [20.0, 0.5], ["minimize", "maximize"]) == pytest.approx(16 * 0.2 + 10 * 0.2)


def test_points_that_do_not_dominate_the_reference_add_nothing() -> None:
    values = np.array([[5.0, 0.9], [1.0, 0.5], [np.nan, 0.9], [-np.inf, 0.9], [1.0, 0.2]])
    assert hypervolume(values, [5.0, 0.5], ["minimize", "maximize"]) == 0.0
    assert hypervolume(np.empty((0, 2)), [5.0, 0.5], ["minimize", "maximize"]) == 0.0


@settings(deadline=None, max_examples=120)
@given(data=st.data(), objectives=st.integers(2, 5))
def test_agrees_with_inclusion_and_exclusion(data: st.DataObject, objectives: int) -> None:
    side = st.integers(0, 8).map(lambda step: step / 8)
    row = st.lists(side, min_size=objectives, max_size=objectives)
    costs = np.array(data.draw(st.lists(row, min_size=1, max_size=6)))
    signs = np.array(data.draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=objectives, max_size=objectives)))
    directions = ["minimize" if sign > 0 else "maximize" for sign in signs]
    reference = np.full(objectives, 0.9)
    expected = by_inclusion_and_exclusion(costs, reference)
    assert hypervolume(costs * signs, reference * signs, directions) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_agrees_with_counting_the_cells_of_a_grid(objectives: int) -> None:
    random = np.random.default_rng(objectives)
    corners = random.integers(0, 9, (40, objectives))
    cells = np.stack(np.meshgrid(*[np.arange(7)] * objectives), axis=-1).reshape(-1, 1, objectives)
    expected = (corners <= cells).all(axis=2).any(axis=1).sum()
    down = ["minimize"] * objectives
    assert hypervolume(corners, [7.0] * objectives, down) == expected > 1
    assert hypervolume(-corners, [-7.0] * objectives, ["maximize"] * objectives) == expected


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 200))
def test_many_points_of_two_objectives_agree_with_the_staircase_of_the_history(seed: int, count: int) -> None:
    costs = np.random.default_rng(seed).random((count, 2)).round(1)
    grown = history(costs, [0.8, 0.9], ["minimize", "minimize"])
    assert hypervolume(costs, [0.8, 0.9], ["minimize", "minimize"]) == pytest.approx(float(grown[-1]), abs=1e-12)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_history_is_the_hypervolume_of_every_prefix(objectives: int) -> None:
    random = np.random.default_rng(objectives)
    values = np.round(random.random((60, objectives)), 2)
    values[::9, 0] = np.nan
    directions = ["minimize", "maximize", "minimize"][:objectives]
    reference = np.array([0.9, 0.1, 0.9])[:objectives]
    expected = [hypervolume(values[: row + 1], reference, directions) for row in range(len(values))]
    np.testing.assert_allclose(history(values, reference, directions), expected, atol=1e-12)


def test_history_of_no_rows_is_empty() -> None:
    assert history(np.empty((0, 2)), [1.0, 1.0], ["minimize", "minimize"]).shape == (0,)


def test_normalised_is_one_at_the_ideal() -> None:
    directions = ["minimize", "maximize"]
    assert hypervolume_share(np.array([[0.0, 1.0]]), [8.0, 0.5], [0.0, 1.0], directions) == pytest.approx(1.0)
    assert hypervolume_share(np.array([[4.0, 0.75]]), [8.0, 0.5], [0.0, 1.0], directions) == pytest.approx(0.25)


def test_corners_that_make_no_box_are_refused() -> None:
    with pytest.raises(ValueError, match="not better than reference"):
        hypervolume_share(np.array([[1.0]]), [1.0], [2.0], ["minimize"])
    with pytest.raises(ValueError, match="finite"):
        hypervolume(np.array([[1.0]]), [np.inf], ["minimize"])
