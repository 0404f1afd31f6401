"""A front in letters."""

import math

from sweeps.terminal.braille_plot import sketch


def test_the_corners_of_the_front_are_where_they_belong() -> None:
    lines = sketch([], [(0.0, 0.0), (10.0, 1.0)], width=20, height=5, labels=("bytes", "accuracy"))
    assert lines[0].strip() == "accuracy"
    assert lines[1] == "1 ┤" + " " * 19 + "●"
    assert lines[5] == "0 ┤●"
    assert lines[-1].split() == ["0", "bytes", "10"]


def test_what_is_far_from_the_front_does_not_press_it_flat() -> None:
    near = sketch([(5.0, 0.9)], [(4.0, 0.90), (6.0, 0.95)], width=20, height=5)
    far = sketch([(5.0, 0.9), (1000.0, 0.0)], [(4.0, 0.90), (6.0, 0.95)], width=20, height=5)
    assert sum(line.count("●") for line in far) == sum(line.count("●") for line in near) == 2
    assert float(far[-1].split()[-1]) <= 6.5


def test_one_point_none_and_what_is_not_finite() -> None:
    assert sketch([], []) == ["no point yet"]
    assert sketch([(math.nan, 1.0)], [(math.inf, 1.0)]) == ["no point yet"]
    assert sum(line.count("●") for line in sketch([], [(3.0, 3.0)])) == 1
    assert sum(line.count("●") for line in sketch([], [(0.0, 0.0)])) == 1
