"""Figures say what is in the table, in every shape a table comes in."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis.front import front_frame
from analysis.pareto.hypervolume import hypervolume_share
from analysis.plots import (
    fronts,
    hypervolume_history,
    knob_importance,
    parallel,
    pareto,
    progress,
    technique_contribution,
)
from analysis.plots.profiles import degradation_profiles
from analysis.plots.style import OKABE_ITO, log_ticks, marks
from analysis.table import StudyTable, load, save


def numbers(values: Any) -> list[float]:
    if isinstance(values, dict):
        values = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
    return [float("nan") if value is None else float(value) for value in values]


def named(figure: go.Figure, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def valid(figure: go.Figure) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(figure.to_json())
    go.Figure(parsed)
    return parsed


@pytest.fixture
def study(make: Callable, tmp_path: Path) -> Callable[..., StudyTable]:
    def build(change: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame, **asked: Any) -> StudyTable:
        frame, meta = make(**asked)
        save(tmp_path, change(frame), meta)
        return load(tmp_path)

    return build


def test_front_is_joined_in_the_order_of_cost(table: StudyTable) -> None:
    figure = pareto(table)
    line = named(figure, "Pareto front")
    front = front_frame(table)
    assert line.line.shape == "hv"
    assert numbers(line.x) == front["meter/weight_bytes"].tolist()
    assert numbers(line.y) == front["meter/accuracy"].tolist()
    assert valid(figure)["data"]


def test_every_complete_compressed_point_is_drawn_once(table: StudyTable) -> None:
    figure = pareto(table)
    skipped = ("held-out test", "Pareto front", "baseline", "infeasible", None)
    drawn = sum(len(numbers(trace.x)) for trace in figure.data if trace.name not in skipped)
    assert drawn == int((table.complete & ~table.uncompressed).sum())


def test_error_bars_sit_on_the_front_alone(table: StudyTable) -> None:
    bars = [trace for trace in pareto(table).data if trace.error_y.array is not None]
    assert sum(len(numbers(trace.error_y.array)) for trace in bars) == len(front_frame(table))
    assert all(trace.marker.opacity == 1.0 for trace in bars)


def test_held_out_test_is_its_own_hollow_trace(table: StudyTable) -> None:
    trace = named(pareto(table), "held-out test")
    assert all(symbol.endswith("-open") for symbol in trace.marker.symbol)
    assert numbers(trace.y) == front_frame(table)["test/accuracy"].tolist()
    assert all("held-out test" in text for text in trace.hovertext)


def test_baseline_is_a_named_star(table: StudyTable) -> None:
    star = named(pareto(table), "baseline")
    assert (star.marker.symbol, list(star.text)) == ("star", ["baseline"])
    assert (numbers(star.x), numbers(star.y)) == ([438_000.0], [0.942])


def test_infeasible_points_are_dimmed_with_another_symbol(study: Callable) -> None:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame["step"] == 2, "state"] = "infeasible"
        return frame

    trace = named(pareto(study(spoil)), "infeasible")
    assert trace.marker.opacity < 0.5
    assert trace.marker.symbol == "x-thin"


def test_hover_names_point_sequence_meters_and_run(table: StudyTable) -> None:
    figure = pareto(table)
    row = front_frame(table).iloc[0]
    texts = [text for trace in figure.data if trace.name != "held-out test" for text in trace.hovertext or ()]
    text = next(text for text in texts if text.startswith(f"<b>{row['point']}</b>"))
    for part in (row["technique"], "=", "kB", "±", " ms", row["mlflow_run_id"]):
        assert part in text


def test_wide_costs_take_a_log_axis_with_units(table: StudyTable) -> None:
    wide = pareto(table).layout.xaxis
    assert wide.type == "log"
    assert "10 kB" in wide.ticktext
    narrow = pareto(table, x="latency_ms").layout.xaxis
    assert narrow.type is None
    assert narrow.title.text == "latency_ms, lower is better"


def test_a_quality_to_minimise_says_that_lower_is_better(study: Callable) -> None:
    def loss(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{"meter/accuracy": 1 - frame["meter/accuracy"]})

    table = study(loss)
    objectives = [table.meta["objectives"][0], {"name": "accuracy", "direction": "minimize", "kind": "quality"}]
    about = {"objectives": objectives, "meters": {}, "baseline": {}}
    turned = StudyTable(table.frame, {**table.meta, **about}, table.folder)
    figure = pareto(turned)
    assert figure.layout.yaxis.title.text == "accuracy, lower is better"
    line = named(figure, "Pareto front")
    assert np.diff(numbers(line.x)).min() > 0
    assert np.diff(numbers(line.y)).max() < 0
    latency = {"name": "latency_ms", "direction": "minimize", "kind": "cost"}
    space = StudyTable(table.frame, {**turned.meta, "objectives": [*objectives, latency]}, table.folder)
    scene = pareto(space).layout.scene
    shown = [axis.title.text for axis in (scene.xaxis, scene.yaxis, scene.zaxis)]
    assert shown == ["weight_bytes", "accuracy, lower is better", "latency_ms"]


def test_ticks_cover_the_range() -> None:
    ticks = log_ticks(3.0, 800.0)
    assert ticks[0] < 3.0
    assert ticks[-1] > 800.0
    assert ticks == sorted(ticks)


def test_names_from_outside_are_escaped(study: Callable) -> None:
    evil = "<img src=x onerror=alert(1)>"

    def rename(frame: pd.DataFrame) -> pd.DataFrame:
        moves = json.dumps([[evil, evil]])
        return frame.assign(technique=evil, sequence=moves, mlflow_run_id=evil)

    for figure in (pareto(study(rename)), pareto(study(rename, objectives=("accuracy",)))):
        texts = json.dumps(valid(figure))
        assert "<img" not in texts
        assert "&lt;img" in texts


@pytest.mark.parametrize(
    "objectives", [("accuracy",), ("weight_bytes", "accuracy"), ("weight_bytes", "latency_ms", "accuracy")]
)
@pytest.mark.parametrize("rows", ["all", "none", "one", "failed", "no values"])
def test_every_shape_of_study_draws(study: Callable, objectives: tuple[str, ...], rows: str) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        match rows:
            case "none":
                return frame.iloc[:0]
            case "one":
                return frame[frame["technique"] == "quantize"].iloc[:1]
            case "failed":
                return frame.assign(state="failed")
            case "no values":
                return frame.drop(columns=[name for name in frame.columns if name.startswith(("meter/", "stderr/"))])
        return frame

    table = study(change, objectives=objectives, trials=12)
    for figure in (pareto(table), hypervolume_history(table), fronts({"a": table, "b": table})):
        assert figure.layout.title.text
        assert valid(figure)
    kinds = {trace.type for trace in pareto(table).data}
    if rows == "all":
        assert kinds == ({"scatter3d"} if len(objectives) == 3 else {"scatter"})


def test_strip_shows_the_best_so_far(study: Callable) -> None:
    table = study(objectives=("accuracy",), trials=20)
    line = named(pareto(table), "best so far")
    values = numbers(line.y)
    assert values == sorted(values)
    assert values[-1] == table.frame.loc[table.complete & ~table.uncompressed, "meter/accuracy"].max()


def test_an_unknown_meter_is_refused_with_the_known_ones(table: StudyTable) -> None:
    with pytest.raises(ValueError, match=r"no meter is named 'speed'; the table has weight_bytes"):
        pareto(table, x="speed")


def test_fronts_compare_by_one_reference(table: StudyTable) -> None:
    worse = table.frame.assign(**{"meter/accuracy": table.frame["meter/accuracy"] - 0.2})
    other = StudyTable(worse, {**table.meta, "reference": {"weight_bytes": 500_000.0, "accuracy": 0.1}}, table.folder)
    figure = fronts({"good": table, "bad <b>": other})
    values = table.values(table.objectives)[table.complete.to_numpy()]
    share = hypervolume_share(values, [500_000.0, 0.1], [0.0, 1.0], table.directions)
    names = [trace.name for trace in figure.data]
    assert f"good · hypervolume {share:.4g}" in names
    lower = hypervolume_share(values - [0.0, 0.2], [500_000.0, 0.1], [0.0, 1.0], table.directions)
    assert f"bad &lt;b&gt; · hypervolume {lower:.4g}" in names


def test_fronts_of_different_objectives_are_refused(table: StudyTable) -> None:
    other = dataclasses.replace(table, meta={**table.meta, "objectives": table.meta["objectives"][:1]})
    with pytest.raises(ValueError, match="'b' optimises weight_bytes, not weight_bytes, accuracy"):
        fronts({"a": table, "b": other})
    with pytest.raises(ValueError, match="at least one"):
        fronts({})


def test_progress_counts_trials_in_the_order_they_finished(table: StudyTable) -> None:
    late = table.frame["finished"].where(table.frame["trial"] != 0, "2026-03-02T00:00:00+00:00")
    moved = StudyTable(table.frame.assign(finished=late), table.meta, table.folder)
    computed, before = progress(moved), progress(table)
    assert computed is not None
    assert before is not None
    assert len(computed.trials) == 60
    assert (np.diff(computed.volumes) >= 0).all()
    assert computed.volumes[-1] == pytest.approx(before.volumes[-1])
    first = table.values(table.objectives)[(table.complete & (table.frame["trial"] == 1)).to_numpy()]
    expected = hypervolume_share(first, table.corner("reference"), table.corner("ideal"), table.directions)
    assert computed.volumes[0] == pytest.approx(expected)


def test_no_reference_means_no_hypervolume(table: StudyTable) -> None:
    bare = StudyTable(table.frame, {**table.meta, "reference": {}}, table.folder)
    assert progress(bare) is None
    assert "no reference point" in hypervolume_history(bare).layout.annotations[0].text


def test_marks_differ_and_keep_to_the_palette() -> None:
    given = marks([f"t{index}" for index in range(56)])
    assert len(set(given.values())) == 56
    assert {mark.colour for mark in given.values()} == set(OKABE_ITO)


def test_progress_counts_seconds(table: StudyTable) -> None:
    computed = progress(table)
    assert computed is not None
    assert computed.training[-1] == pytest.approx(table.frame["seconds/finetune"].sum())
    names = [name for name in table.frame if name.startswith("seconds/")]
    assert computed.seconds[-1] == pytest.approx(table.frame[names].to_numpy().sum())
    line = hypervolume_history(table, against="training").data[0]
    assert numbers(line.x) == computed.training.tolist()
    with pytest.raises(ValueError, match="against='money'; write one of trials, training, seconds"):
        hypervolume_history(table, against="money")
    bare = StudyTable(table.frame.drop(columns=names), table.meta, table.folder)
    assert "records no seconds" in hypervolume_history(bare, against="training").layout.annotations[0].text


def test_a_long_history_is_drawn_at_its_steps(study: Callable) -> None:
    table = study(trials=3000)
    computed = progress(table)
    assert computed is not None
    drawn = numbers(hypervolume_history(table).data[0].y)
    assert len(drawn) < 1000
    assert sorted(set(computed.volumes.tolist())) == sorted(set(drawn))


def test_parallel_draws_every_member_of_the_front(table: StudyTable) -> None:
    figure = parallel(table, others=5)
    axes = len(figure.layout.xaxis.ticktext)
    assert axes == 6, "four knobs and two objectives"
    lines = {trace.name: len(trace.x) // (axes + 1) for trace in figure.data if trace.mode == "lines"}
    assert lines.pop("others") == 5
    front = front_frame(table)
    assert sum(lines.values()) == len(front)
    colours = {trace.name: trace.line.color for trace in figure.data if trace.mode == "lines"}
    assert colours["quantize"] == marks(table.frame["technique"][lambda t: t != "baseline"])["quantize"].colour
    heights = [value for trace in figure.data for value in trace.y if value is not None]
    assert max(heights) == 1.0
    assert min(heights) == -0.2, "a knob that was not turned passes below"
    assert "not turned" in [note.text for note in figure.layout.annotations]
    assert valid(figure)


def test_the_axes_follow_the_front(study: Callable) -> None:
    def lost(frame: pd.DataFrame) -> pd.DataFrame:
        beaten = frame.index[(frame["step"] > 0) & (frame["state"] == "complete")][:3]
        return frame.assign(**{"meter/accuracy": frame["meter/accuracy"].mask(frame.index.isin(beaten), -30.0)})

    whole, cut = pareto(study()), pareto(study(lost))
    assert "outside" not in whole.layout.title.subtitle.text or whole.layout.yaxis.range is not None
    low, high = cut.layout.yaxis.range
    members = front_frame(study(lost))["meter/accuracy"]
    assert -1.0 < low < members.min() < members.max() < high
    drawn = [value for trace in cut.data for value in numbers(trace.y)]
    assert drawn.count(-30.0) == 3, "they are there, outside the axes"
    assert " outside the axes" in cut.layout.title.subtitle.text


def test_importance_and_contribution_draw(table: StudyTable) -> None:
    importance = knob_importance(table)
    assert {trace.name for trace in importance.data} == {
        "for weight_bytes", "for accuracy", "for reaching the front",
    }  # fmt: skip
    assert "explains" in importance.layout.title.subtitle.text
    shares = technique_contribution(table)
    assert set(shares.data[0].y) == {"structured", "quantize", "low_rank", "sparse"}
    assert valid(importance)["data"]
    assert valid(shares)["data"]


@pytest.mark.parametrize("rows", ["none", "one", "no knobs", "words"])
def test_the_new_figures_take_every_shape(study: Callable, rows: str) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        match rows:
            case "none":
                return frame.iloc[:0]
            case "one":
                return frame[frame["technique"] == "quantize"].iloc[:1]
            case "no knobs":
                return frame.drop(columns=[name for name in frame.columns if name.startswith("knob/")])
        return frame.assign(**{"knob/order": ["<b>first", "last"] * (len(frame) // 2) + ["last"] * (len(frame) % 2)})

    table = study(change, trials=20)
    for figure in (parallel(table), knob_importance(table), technique_contribution(table)):
        assert "<b>first" not in json.dumps(valid(figure))


def test_profiles_are_drawn_for_the_front_and_the_baseline(study: Callable) -> None:
    def profiled(frame: pd.DataFrame) -> pd.DataFrame:
        texts = ["[0.9, 0.8, 0.5]" if state == "complete" else None for state in frame["state"]]
        return frame.assign(test_profile=texts)

    table = study(profiled)
    figure = degradation_profiles(table)
    names = [trace.name for trace in figure.data]
    members = [point for point in front_frame(table)["point"] if not point.endswith(".0")]
    assert names[0] == "baseline"
    assert names[1:] == members[: len(names) - 1] or len(names) == 13
    assert list(figure.data[1].x) == [1, 2, 4]
    assert numbers(figure.data[1].y) == [0.9, 0.8, 0.5]
    assert valid(figure)
    damaged = study(lambda frame: frame.assign(test_profile="[0.9, null"))
    assert not degradation_profiles(damaged).data
    assert "The study has no profile" in json.dumps(valid(degradation_profiles(study())))
