"""What techniques add, by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.contribution import contributions, parts
from analysis.table import from_frame

FRAME = pd.DataFrame(
    {
        "cost": [10.0, 5.0, 2.0, 1.0],
        "quality": [1.0, 0.9, 0.8, 0.2],
        "technique": ["baseline", "prune", "prune + quantize", "quantize"],
        "step": [0, 1, 2, 1],
    }
)
CORNERS = {"reference": {"cost": 10.0, "quality": 0.0}, "ideal": {"cost": 0.0, "quality": 1.0}}


def test_hypervolumes_with_and_without() -> None:
    table = from_frame(FRAME, {"cost": "minimize", "quality": "maximize"}, **CORNERS)
    found = {entry.technique: entry for entry in contributions(table)}
    whole = (5 * 0.9 + 3 * 0.8 + 1 * 0.2) / 10
    without_prune = 9 * 0.2 / 10
    without_quantize = 5 * 0.9 / 10
    assert found["prune"].without == pytest.approx(without_prune)
    assert found["prune"].lost == pytest.approx(whole - without_prune)
    assert found["quantize"].lost == pytest.approx(whole - without_quantize)
    assert found["prune"].alone == pytest.approx(without_quantize)
    assert (found["prune"].members, found["quantize"].members) == (2, 2)
    assert [entry.technique for entry in contributions(table)] == ["prune", "quantize"]


def test_nothing_to_share_out() -> None:
    assert contributions(from_frame(FRAME, {"cost": "minimize", "quality": "maximize"})) == ()
    bare = from_frame(FRAME.drop(columns="technique"), {"cost": "minimize", "quality": "maximize"}, **CORNERS)
    assert contributions(bare) == ()


def test_parts_of_a_composition() -> None:
    assert parts("a + b + a") == ("a", "b")
    assert parts("baseline") == parts(None) == parts("") == ()
