"""Non-dominated sorting against peeling front after front."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.pareto.dominance import non_dominated, ranks


def by_peeling(values: np.ndarray, directions: list[str]) -> list[int]:
    left, found, rank = values.astype(float).copy(), np.full(len(values), -1), 0
    while np.isfinite(left).all(axis=1).any():
        front = non_dominated(left, directions)
        # Equal rows share a front: `non_dominated` names only the first of them.
        same = np.array([any((row == left[i]).all() for i in np.flatnonzero(front)) for row in left])
        found[same], left[same], rank = rank, np.nan, rank + 1
    return found.tolist()


side = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, float("nan"), float("inf")])


@settings(deadline=None, max_examples=150)
@given(data=st.data(), objectives=st.integers(1, 4))
def test_agrees_with_peeling(data: st.DataObject, objectives: int) -> None:
    rows = data.draw(st.lists(st.lists(side, min_size=objectives, max_size=objectives), max_size=14))
    directions = [data.draw(st.sampled_from(["minimize", "maximize"])) for _ in range(objectives)]
    values = np.array(rows, dtype=float).reshape(len(rows), objectives)
    assert ranks(values, directions).tolist() == by_peeling(values, directions)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_many_rows_with_ties_agree_with_peeling(objectives: int) -> None:
    random = np.random.default_rng(objectives)
    values = random.integers(-6, 7, (150, objectives)) * random.choice([1.0, -0.0], (150, objectives), p=[0.8, 0.2])
    values[::20, 0] = np.nan
    directions = ["maximize", "minimize", "maximize"][:objectives]
    assert ranks(values, directions).tolist() == by_peeling(values, directions)


def test_a_chain_and_an_antichain() -> None:
    chain = np.column_stack([np.arange(5), np.arange(5)])
    assert ranks(chain, ["minimize", "minimize"]).tolist() == [0, 1, 2, 3, 4]
    assert ranks(chain, ["minimize", "maximize"]).tolist() == [0, 0, 0, 0, 0]
    assert ranks(np.empty((0, 2)), ["minimize", "minimize"]).tolist() == []


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ranks(np.zeros((3, 2)), ["minimize"])
