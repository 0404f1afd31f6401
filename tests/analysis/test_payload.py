"""What the page's script is given: JSON without NaN, short numbers, groups of techniques."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.plots.groups import OTHER, group_techniques
from analysis.report.payload import numbers, payload, reproduction
from analysis.table import StudyTable, from_frame


def test_numbers_are_short_and_known() -> None:
    assert numbers(np.array([1 / 3, 2.0, math.nan, math.inf, -1e20, 123456.789])) == [
        0.333333, 2, None, None, -1e20, 123457.0,
    ]  # fmt: skip


def test_columns_have_a_value_for_every_row(table: StudyTable) -> None:
    found = payload(table)
    json.dumps(found, allow_nan=False)
    rows = len(table.frame)
    for name in ("point", "trial", "step", "state", "technique", "group", "sequence", "seconds"):
        assert len(found[name]) == rows, name
    assert all(len(column) == rows for column in found["value"].values())
    tested = found["test"]["accuracy"]
    assert [found["point"][row] for row in tested["at"]] == table.frame.dropna(subset="test/accuracy")["point"].tolist()
    row = table.frame.index[table.frame["step"] == 2][0]
    moves = [[found["knobs"][knob], value] for knob, value in found["sequence"][row]]
    assert [knob for knob, _ in moves] == [knob for knob, _ in json.loads(table.frame.loc[row, "sequence"])]


def test_a_bare_and_an_odd_table_are_json() -> None:
    frame = pd.DataFrame({"cost": [1.0, math.inf], "quality": [math.nan, 0.5], "sequence": ["no JSON", "[[1, NaN]]"]})
    frame["layers"] = ['[{"width": NaN}]', "{broken"]
    found = payload(from_frame(frame, {"cost": "minimize", "quality": "maximize"}))
    json.dumps(found, allow_nan=False)
    assert found["value"]["cost"] == [1, None]
    assert found["sequence"] == [[], [[0, None]]]
    assert found["layers"] == {0: [{"width": None}]}
    assert found["reproduce"] == {}


def test_few_groups_whatever_the_compositions() -> None:
    names = [f"a + b{index}" for index in range(40)] + ["baseline", None, "a"]
    frame = pd.DataFrame({"cost": range(43), "quality": range(43), "technique": names})
    groups, order = group_techniques(from_frame(frame, {"cost": "minimize", "quality": "minimize"}))
    assert len(order) == 12
    assert list(order)[-1] == OTHER
    assert names[0] in order, "the front's own composition keeps its colour"
    assert groups[40:42] == [-1, -1]
    assert set(groups[:40]) <= set(range(12))


def test_many_orders_of_the_same_techniques_are_one_group() -> None:
    from itertools import permutations

    names = [" + ".join(order) for order in permutations("abc", 2)] + [
        " + ".join(order) for order in permutations("abc")
    ]
    frame = pd.DataFrame({"cost": range(15), "technique": [*names, "a", "b", "c"]})
    _, order = group_techniques(from_frame(frame, {"cost": "minimize"}))
    assert set(order) == {"a", "b", "c", "a + b", "a + c", "b + c", "a + b + c"}
    _, few = group_techniques(from_frame(frame.iloc[:6], {"cost": "minimize"}))
    assert "b + a" in few


def test_what_a_command_needs() -> None:
    meta = {
        "command": "python -m sweeps.run +exp=demo name=x trials=9 sampler=gp space.a.b=0.5 'data.path=/a b'",
        "config": {"space": {"a": {"b": {"low": 0, "high": 1}, "c": None}, "d": {"values": [1]}}},
    }
    found = reproduction(meta)
    assert found["command"] == "python -m sweeps.run +exp=demo 'data.path=/a b'"
    assert found["knobs"] == ["a.b", "a.c", "d"]
    assert reproduction({**meta, "config": {"policy": {"_target_": "x"}}}) == {}
    assert reproduction({"command": "broken 'quote"}) == {}


def test_scripts_hold_no_end_of_script(make: Callable) -> None:
    from analysis.report.document import embed

    assert "<" not in embed({"</script>": "<!-- & -->"})
    assert json.loads(embed({"a<b": 1})) == {"a<b": 1}
