"""The traces of policies: which points a line runs through, in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from analysis.plots.traces import is_policy, traces
from analysis.report import write_comparison
from analysis.table import StudyTable, from_frame, save

POLICY = {"policy": {"_target_": "kmr.policies.Dual"}}


def study(policy: bool = True, **objectives: str) -> StudyTable:
    rows = [
        (-1, 0, 10.0, 1.0, "complete", "[]"),
        (1, 1, 5.0, 0.7, "complete", json.dumps([["prune", 0.5]])),
        (0, 2, 2.0, 0.5, "complete", json.dumps([["prune", 0.5], ["bits", 4]])),
        (0, 1, 6.0, 0.9, "complete", json.dumps([["prune", 0.5]])),
        (0, 3, None, None, "failed", "[]"),
    ]
    frame = pd.DataFrame(rows, columns=["trial", "step", "cost", "quality", "state", "sequence"])
    meta = {
        "baseline": {"cost": {"value": 10.0}, "quality": {"value": 1.0}},
        "reference": {"cost": 10.0, "quality": 0.0}, "ideal": {"cost": 0.0, "quality": 1.0},
        "config": POLICY if policy else {},
    }  # fmt: skip
    return from_frame(frame, objectives or {"cost": "minimize", "quality": "maximize"}, **meta)


def test_every_trial_is_a_line_from_the_base_model_through_its_moves_in_order() -> None:
    fig = traces({"dual": [study()]})
    assert len(fig.data) == 1
    assert list(fig.data[0].x) == [10.0, 6.0, 2.0, None, 10.0, 5.0, None]
    assert list(fig.data[0].y) == [1.0, 0.9, 0.5, None, 1.0, 0.7, None]
    assert fig.data[0].text[2] == "prune=0.5 → bits=4"
    assert fig.data[0].name == "dual (2 trials)"


def test_what_cannot_be_drawn_is_said() -> None:
    assert "two objectives" in traces({"a": [study(cost="minimize")]}).layout.annotations[-1].text
    empty = study()
    none = StudyTable(empty.frame.iloc[:0], empty.meta, empty.folder)
    assert "No study" in traces({"a": [none]}).layout.annotations[-1].text


def test_the_comparison_shows_traces_where_a_policy_ran(tmp_path: Path) -> None:
    for name, policy in (("dual", True), ("vectors", False)):
        table = study(policy)
        assert is_policy(table) is policy
        save(tmp_path / name, table.frame, table.meta)
    with_policy = write_comparison([tmp_path / "dual", tmp_path / "vectors"], tmp_path / "both").html.read_text()
    without = write_comparison([tmp_path / "vectors"], tmp_path / "one").html.read_text()
    assert 'id="traces"' in with_policy
    assert 'id="traces"' not in without
