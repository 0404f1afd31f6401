"""Figure of a study: every point, and the front joined by a step line."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.front import front_frame, front_of
from analysis.pareto.dominance import BoolArray, as_costs
from analysis.plots.cloud import cloud
from analysis.plots.focus import focus, outside
from analysis.plots.hover import hover, text_or
from analysis.plots.strip import strip
from analysis.plots.style import INK, MUTED, PAPER, Mark, axis, escape, figure, marks, say, spans_decades
from analysis.table import StudyTable
from analysis.wording import plural, quantity


def pareto(table: StudyTable, x: str | None = None, y: str | None = None) -> go.Figure:
    """Draw every complete point of a study and its Pareto front.

    `x` and `y` name the meters to show; the front is then that of these two. By default the figure shows the study's
    objectives: one against the trials, two in a plane, the first three of more in space. Raises ValueError for an
    unknown meter.
    """
    for meter in (x, y):
        if meter is not None and meter not in table.meters:
            raise ValueError(f"no meter is named {meter!r}; the table has {', '.join(table.meters)}")
    if x is None and y is None and len(table.objectives) == 1:
        return strip(table)
    if x is None and y is None and len(table.objectives) > 2:
        return cloud(table)
    others = [name for name in (*table.objectives, *table.meters) if name not in (x, y)]
    x = x or others.pop(0)
    if y is None and not others:
        raise ValueError(f"the table has only the meter {x!r}; add another for y")
    return _plane(table, x, y or others[0])


def _plane(table: StudyTable, x: str, y: str) -> go.Figure:
    points = table.values((x, y))
    known = np.isfinite(points).all(axis=1)
    on_front = front_of(table, (x, y))
    complete = table.complete.to_numpy(dtype=np.bool_) & known
    uncompressed = table.uncompressed.to_numpy(dtype=np.bool_)
    infeasible = (table.frame["state"] == "infeasible").to_numpy(dtype=np.bool_) & known
    stands_for_all = table.baseline(x)[0], table.baseline(y)[0]

    is_loss = table.kind(y) == "quality" and table.direction(y) == "minimize"
    total = plural(int(complete.sum()), "model")
    names = f"{escape(x)} and {escape(y)}"
    title = f"Pareto front of {names}"
    fig = figure(
        title,
        f"{int(on_front.sum()):,} of {total} on the front; bars: one standard error",
        xaxis=axis(table, x, log=spans_decades(np.append(points[complete | infeasible, 0], stands_for_all[0]))),
        yaxis=axis(table, y, log=is_loss and spans_decades(np.append(points[complete, 1], stands_for_all[1]))),
    )
    if not complete.any() and not infeasible.any() and not all(map(math.isfinite, stands_for_all)):
        return say(fig, f"No complete model has both {names} yet")

    front = front_frame(table, (x, y))
    technique = table.frame["technique"].map(text_or).replace("", "unknown")
    marked = marks(technique[complete & ~uncompressed])
    groups = {name: complete & ~uncompressed & (technique == name).to_numpy() for name in marked}
    unmet = infeasible & ~uncompressed
    _add(fig, table, unmet, x, y, "infeasible", Mark(MUTED, "x-thin"), opacity=0.45, size=7, rank=1400)
    for rank, (name, of_it) in enumerate(groups.items()):
        alone = not (of_it & on_front).any()
        _add(fig, table, of_it & ~on_front, x, y, name, marked[name], opacity=0.45, size=7, show=alone, rank=rank)
    _step(fig, table, front, x, y)
    for rank, (name, of_it) in enumerate(groups.items()):
        _add(fig, table, of_it & on_front, x, y, name, marked[name], opacity=1.0, size=11, bars=True, rank=rank)
    _held_out(fig, table, front, x, y, marked)
    _star(fig, table, x, y)
    _room(fig, np.append(points[complete | unmet, 0], stands_for_all[0]))
    _focus(fig, table, front, (x, y), complete | unmet)
    return fig


def _focus(fig: go.Figure, table: StudyTable, front: pd.DataFrame, names: tuple[str, str], drawn: BoolArray) -> None:
    """Fit the axes to the front and the baseline, and count the models outside the axes.

    Members worse than the study's reference point add no hypervolume and do not widen the axes, unless they are most of
    the front.
    """
    part = StudyTable(front, table.meta, table.folder)
    costs = as_costs(part.values(table.objectives), table.directions)
    reference = as_costs(table.corner("reference")[None, :], table.directions)
    inside = np.flatnonzero(~(costs > reference).any(axis=1))
    most = len(inside) > 1 and 2 * len(inside) >= len(front)
    part = StudyTable(front.iloc[inside] if most else front, table.meta, table.folder)
    hidden = np.zeros(int(drawn.sum()), dtype=np.bool_)
    for name, shown in zip(names, (fig.layout.xaxis, fig.layout.yaxis), strict=True):
        values, stderr = part.column(f"meter/{name}"), np.nan_to_num(part.column(f"stderr/{name}"))
        tested = part.column(f"test/{name}")
        matter = np.concatenate([values - stderr, values + stderr, tested, [table.baseline(name)[0]]])
        everything, log = table.column(f"meter/{name}")[drawn], shown.type == "log"
        ends = focus(matter, everything, log)
        if ends is not None:
            shown.range = ends
        hidden |= outside(everything, ends, log)
    if hidden.any():
        subtitle = fig.layout.title.subtitle
        subtitle.text += f"; {plural(int(hidden.sum()), 'model')} outside the axes"


def _room(fig: go.Figure, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Widen an axis with a single value, whose automatic range would suggest tiny differences."""
    known = values[np.isfinite(values)]
    if len(known) and known.min() == known.max() != 0:
        fig.update_xaxes(range=sorted([0.5 * known[0], 1.5 * known[0]]))


def _add(
    fig: go.Figure,
    table: StudyTable,
    mask: np.ndarray[tuple[int], np.dtype[np.bool_]],
    x: str,
    y: str,
    name: str,
    mark: Mark,
    *,
    opacity: float,
    size: int,
    bars: bool = False,
    show: bool = True,
    rank: int = 1000,
) -> None:
    if not mask.any():
        return
    rows = table.frame[mask]
    part = StudyTable(rows, table.meta, table.folder)
    thin = mark.symbol.endswith("-thin")
    fig.add_scatter(
        x=part.column(f"meter/{x}"),
        y=part.column(f"meter/{y}"),
        error_x=_bars(part.column(f"stderr/{x}"), mark.colour) if bars else None,
        error_y=_bars(part.column(f"stderr/{y}"), mark.colour) if bars else None,
        mode="markers",
        name=escape(name),
        legendgroup=escape(name),
        showlegend=show,
        legendrank=rank,
        marker={
            "color": mark.colour,
            "symbol": mark.symbol,
            "size": size,
            "opacity": opacity,
            "line": {"width": 1.5 if thin else 1 if bars else 0, "color": mark.colour if thin else PAPER},
        },
        hovertext=hover(table, rows),
        hoverinfo="text",
    )


def _bars(stderrs: np.ndarray[tuple[int], np.dtype[np.float64]], colour: str) -> dict[str, object] | None:
    if not np.nan_to_num(stderrs).any():
        return None
    return {"type": "data", "array": np.nan_to_num(stderrs), "color": colour, "thickness": 1.2, "width": 3}


def _step(fig: go.Figure, table: StudyTable, front: pd.DataFrame, x: str, y: str) -> None:
    part = StudyTable(front, table.meta, table.folder)
    # In order of x from best to worst, the corner between neighbours has the x of the second and the y of the first.
    fig.add_scatter(
        x=part.column(f"meter/{x}"),
        y=part.column(f"meter/{y}"),
        mode="lines",
        line={"shape": "hv", "color": INK, "width": 1.5},
        name="Pareto front",
        legendrank=1100,
        hoverinfo="skip",
    )


def _held_out(fig: go.Figure, table: StudyTable, front: pd.DataFrame, x: str, y: str, marked: dict[str, Mark]) -> None:
    part = StudyTable(front, table.meta, table.folder)
    measured = {meter: part.column(f"meter/{meter}") for meter in (x, y)}
    # A cost is the same on any data and seldom has a test value; then its only value is used.
    test = {meter: part.column(f"test/{meter}") for meter in (x, y)}
    shown = np.isfinite(test[x]) | np.isfinite(test[y])
    if not shown.any():
        return
    at = {meter: np.where(np.isfinite(test[meter]), test[meter], measured[meter])[shown] for meter in (x, y)}
    rows = front[shown]
    symbols = [marked.get(text_or(name, "unknown"), Mark(INK, "star")) for name in rows["technique"]]
    gap = np.full(int(shown.sum()), np.nan)
    fig.add_scatter(
        x=np.column_stack([measured[x][shown], at[x], gap]).ravel(),
        y=np.column_stack([measured[y][shown], at[y], gap]).ravel(),
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dot"},
        legendgroup="held-out test",
        showlegend=False,
        hoverinfo="skip",
    )
    fig.add_scatter(
        x=at[x],
        y=at[y],
        mode="markers",
        name="held-out test",
        legendrank=1200,
        legendgroup="held-out test",
        marker={
            "symbol": [f"{mark.symbol}-open" for mark in symbols],
            "color": [mark.colour for mark in symbols],
            "size": 11,
            "line": {"width": 1.8},
        },
        hovertext=hover(table, rows, test=True),
        hoverinfo="text",
    )


def _star(fig: go.Figure, table: StudyTable, x: str, y: str) -> None:
    (at_x, x_stderr), (at_y, y_stderr) = table.baseline(x), table.baseline(y)
    if not (math.isfinite(at_x) and math.isfinite(at_y)):
        rows = table.frame[table.uncompressed & np.isfinite(table.values((x, y))).all(axis=1)]
        if rows.empty:
            return
        at_x, at_y = float(rows[f"meter/{x}"].iloc[0]), float(rows[f"meter/{y}"].iloc[0])
    shown = [
        f"{escape(meter)}: {escape(quantity(value, table.unit(meter), stderr))}"
        for meter, value, stderr in ((x, at_x, x_stderr), (y, at_y, y_stderr))
    ]
    fig.add_scatter(
        x=[at_x],
        y=[at_y],
        mode="markers+text",
        name="baseline",
        legendrank=1300,
        text=["baseline"],
        textposition="top center",
        cliponaxis=False,
        marker={"symbol": "star", "size": 16, "color": INK, "line": {"width": 1, "color": PAPER}},
        hovertext=["<br>".join(["<b>baseline</b> (uncompressed)", *shown])],
        hoverinfo="text",
    )
