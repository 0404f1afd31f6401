"""Groups of runs: how they are formed, and their numbers by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparison import group_by_config, interval, pairwise, standings
from analysis.plots.comparison import attainment_surfaces, growth, hypervolume_intervals
from analysis.report import write_comparison
from analysis.report.__main__ import main
from analysis.report.comparison import read_groups
from analysis.table import StudyTable, TableError, from_frame, save

CORNERS = {"reference": {"cost": 10.0, "quality": 0.0}, "ideal": {"cost": 0.0, "quality": 1.0}}


def run(*points: tuple[float, float], **meta: object) -> StudyTable:
    frame = pd.DataFrame(points, columns=["cost", "quality"])
    return from_frame(frame, {"cost": "minimize", "quality": "maximize"}, **{**CORNERS, **meta})  # type: ignore[arg-type]


def test_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0, math.nan])
    low, high = stats.t.interval(0.95, 2, loc=2.0, scale=1 / math.sqrt(3))
    assert found == pytest.approx((2.0, low, high, 3))
    assert interval([4.0])[:1] + interval([4.0])[3:] == (4.0, 1)
    assert math.isnan(interval([4.0]).low)
    assert math.isnan(interval([0.4, 0.6]).high), "two runs are too few"
    assert interval([0.9, 0.99, 1.0], most=1.0).high == 1.0
    assert interval([0.9, 0.99, 1.0], most=1.0).low == interval([0.9, 0.99, 1.0]).low
    assert interval([]).runs == 0


def test_standings_by_hand() -> None:
    groups = {"weak": [run((5, 0.5))], "strong": [run((5, 0.9)), run((5, 0.7))]}
    strong, weak = standings(groups)
    assert (strong.label, weak.label) == ("strong", "weak")
    assert strong.hypervolume.mean == pytest.approx((0.45 + 0.35) / 2)
    assert weak.hypervolume == pytest.approx((0.25, math.nan, math.nan, 1), nan_ok=True)
    assert weak.igd_plus.mean == pytest.approx(0.4)
    assert strong.igd_plus.mean == pytest.approx((0 + 0.2) / 2)


def test_pairs_by_hand() -> None:
    groups = {"a": [run((5, 0.9))], "b": [run((5, 0.5), (1, 0.1))]}
    assert pairwise(groups, "coverage").loc["a", "b"] == 0.5
    assert pairwise(groups, "epsilon").loc["b", "a"] == pytest.approx(0.4)
    assert np.isnan(pairwise(groups, "coverage").loc["a", "a"])
    with pytest.raises(ValueError, match="coverage or epsilon"):
        pairwise(groups, "other")


def test_runs_that_differ_by_seed_alone_are_one_group() -> None:
    def of(name: str, seed: int, width: int) -> StudyTable:
        return run((5, 0.5), study=name, config={"seed": seed, "name": name, "model": {"width": width}})

    tables = [of("net-seed0", 0, 8), of("net-seed1", 1, 8), of("net-wide", 0, 16)]
    assert {label: len(runs) for label, runs in group_by_config(tables).items()} == {"net": 2, "net-wide": 1}
    seeds = [of(f"seed{seed}", seed, 8) for seed in range(1, 4)]
    assert list(group_by_config(seeds[:2])) == ["seed1, seed2"], "no name is shared"
    assert list(group_by_config(seeds)) == ["seed1 … seed3"]
    bare = [run((5, 0.5)), run((4, 0.5))]
    assert {label: len(runs) for label, runs in group_by_config(bare).items()} == {"study": 1, "study (2)": 1}


@pytest.fixture
def folders(make: Callable, tmp_path: Path) -> list[str]:
    found = []
    for seed in range(3):
        frame, meta = make(trials=8, seed=seed, name=f"demo-{seed}")
        save(tmp_path / f"run{seed}", frame, {**meta, "config": {"seed": seed}})
        found.append(str(tmp_path / f"run{seed}"))
    return found


def test_labels_make_groups(folders: list[str]) -> None:
    groups = read_groups([f"with={folders[0]}", f"with={folders[1]}", folders[2]])
    assert {label: len(runs) for label, runs in groups.items()} == {"with": 2, "demo-2": 1}
    with pytest.raises(TableError, match="label=runs"):
        read_groups([f"={folders[0]}"])


def test_the_page_and_its_numbers(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([f"<b>one={folders[0]}", f"<b>one={folders[1]}", f"two={folders[2]}", "--out", str(tmp_path / "out")]) == 0
    )
    assert "comparison.html" in capsys.readouterr().out
    html = (tmp_path / "out" / "comparison.html").read_text()
    assert "&lt;b&gt;one" in html
    assert "<b>one" not in html
    assert html.count("plotly.js v") == 1
    numbers = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert set(numbers["group"]) == {"<b>one", "two"}
    assert numbers.set_index("group").loc["<b>one", "runs"] == 2


def test_other_objectives_are_refused(make: Callable, folders: list[str], tmp_path: Path) -> None:
    save(tmp_path / "other", *make(trials=3, objectives=("latency_ms", "accuracy")))
    with pytest.raises(TableError, match="optimises latency_ms, accuracy, not weight_bytes"):
        write_comparison([folders[0], tmp_path / "other"], tmp_path)


@pytest.mark.parametrize("shape", ["empty", "three objectives", "no reference"])
def test_every_shape_draws(make: Callable, tmp_path: Path, shape: str) -> None:
    objectives = (
        ("weight_bytes", "latency_ms", "accuracy") if shape == "three objectives" else ("weight_bytes", "accuracy")
    )
    frame, meta = make(trials=6, objectives=objectives)
    if shape == "no reference":
        meta = {**meta, "reference": {}}
    save(tmp_path / "a", frame.iloc[:0] if shape == "empty" else frame, meta)
    groups = read_groups([tmp_path / "a"])
    for figure in (attainment_surfaces(groups), hypervolume_intervals(groups), growth(groups)):
        assert json.loads(figure.to_json())["layout"]["title"]
    assert write_comparison([tmp_path / "a"], tmp_path / "out").html.is_file()
