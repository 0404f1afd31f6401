from kmr.core import Choice, FloatRange
from sweeps.anchors import anchors


def test_each_knob_is_turned_alone_from_mild_to_strong() -> None:
    space = {"a": FloatRange(0.0, 0.8, neutral=0.0), "b": Choice((32, 8, 4), neutral=32)}
    assert list(anchors(space, 2)) == [
        {"a": 0.4, "b": 32},
        {"a": 0.0, "b": 8},
        {"a": 0.8, "b": 32},
        {"a": 0.0, "b": 4},
    ]
    assert list(anchors(space, 0)) == []


def test_a_space_whose_knobs_cannot_stay_neutral_has_no_anchors() -> None:
    space = {"a": FloatRange(0.2, 0.8, neutral=0.0), "b": Choice((8, 4), neutral=32)}
    assert list(anchors(space, 2)) == []
