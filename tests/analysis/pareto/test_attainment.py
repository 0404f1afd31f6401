"""Attainment surfaces against moocore and against their definition."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.pareto.attainment import attainment
from analysis.pareto.dominance import non_dominated

BOTH = ["minimize", "minimize"]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), runs=st.integers(1, 5))
def test_agrees_with_moocore(data: st.DataObject, runs: int) -> None:
    row = st.tuples(st.integers(0, 6), st.integers(0, 6))
    drawn = [np.array(data.draw(st.lists(row, min_size=1, max_size=6)), dtype=float) for _ in range(runs)]
    together, sets = np.concatenate(drawn), np.repeat(np.arange(1, runs + 1), list(map(len, drawn)))
    for level in range(1, runs + 1):
        surface = attainment(drawn, level / runs, BOTH)
        known = moocore.eaf(together, sets, percentiles=[100 * level / runs])[:, :2]
        assert sorted(map(tuple, surface)) == sorted(map(tuple, known))


def test_one_run_attains_its_front() -> None:
    run = np.array([[1.0, 0.5], [2.0, 0.7], [3.0, 0.6], [np.nan, 1.0]])
    assert attainment([run], 1.0, ["minimize", "maximize"]).tolist() == [[1.0, 0.5], [2.0, 0.7]]


def test_a_run_without_points_attains_nothing() -> None:
    run, empty = np.array([[1.0, 1.0]]), np.empty((0, 2))
    assert attainment([run, empty], 0.5, BOTH).tolist() == [[1.0, 1.0]]
    assert attainment([run, empty], 1.0, BOTH).tolist() == []
    assert attainment([empty], 1.0, BOTH).shape == (0, 2)


def test_the_surface_is_a_front() -> None:
    random = np.random.default_rng(0)
    surface = attainment([random.random((20, 2)) for _ in range(4)], 0.5, BOTH)
    assert non_dominated(surface, BOTH).all()


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="two objectives"):
        attainment([np.ones((1, 3))], 0.5, ["minimize"] * 3)
    for runs, share in (([], 0.5), ([np.ones((1, 2))], 0.0), ([np.ones((1, 2))], 1.5)):
        with pytest.raises(ValueError, match="at least one run and a share"):
            attainment(runs, share, BOTH)
