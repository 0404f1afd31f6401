"""The part of an axis that shows the front."""

import numpy as np
import pytest

from analysis.plots.focus import focus, outside


def test_far_values_are_cut_and_near_ones_kept() -> None:
    matter, everything = np.array([0.8, 1.0, np.nan]), np.array([0.1, 0.77, 0.8, 0.9, 1.0])
    ends = focus(matter, everything)
    assert ends == (pytest.approx(0.75 - 0.05 * 0.25), pytest.approx(1.0 + 0.05 * 0.25))
    assert outside(everything, ends).tolist() == [True, False, False, False, False]


def test_on_a_log_axis_the_ends_are_exponents() -> None:
    ends = focus(np.array([10.0, 1000.0]), np.array([10.0, 1e9, -1.0]), log=True)
    assert ends == (pytest.approx(1 - 0.05 * 2.5), pytest.approx(3.5 + 0.05 * 2.5))
    assert outside(np.array([10.0, 1e9]), ends, log=True).tolist() == [False, True]


@pytest.mark.parametrize(
    ("matter", "everything"),
    [([], [1.0]), ([1.0, 1.0], [0.0, 9.0]), ([0.0, 1.0], [0.0, 1.2]), ([np.nan], [np.nan])],
)
def test_nothing_is_cut_without_need(matter: list[float], everything: list[float]) -> None:
    assert focus(np.array(matter), np.array(everything)) is None
    assert not outside(np.array(everything), None).any()
