"""Parallel coordinates: a line for each model through its knobs and objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.accounting import mark_models
from analysis.front import front_of
from analysis.importance import knob_frame
from analysis.pareto.dominance import Floats
from analysis.plots.groups import group_techniques
from analysis.plots.style import INK, MUTED, PAPER, escape, figure, say, spans_decades
from analysis.table import StudyTable
from analysis.wording import plural, quantity

_LEFT_ALONE = -0.2
"""The height of a line at the axis of a knob that was not turned; the axis itself is [0, 1]."""
_MOST_KNOBS = 14
_MOST_OTHERS = 300


def parallel(table: StudyTable, others: int = _MOST_OTHERS) -> go.Figure:
    """Draw the front members as lines coloured by technique, and at most `others` dimmed lines behind them.

    There is an axis for each objective, its better end up, and for each of the fourteen knobs turned most often. The
    line of a model passes below the axis of a knob that was not turned.
    """
    complete = mark_models(table)
    front = front_of(table) & complete
    fig = figure("Knobs and objectives of every model")
    if not complete.any():
        return say(fig, "No complete model has all objectives yet")
    rest = np.flatnonzero(complete & ~front)
    if len(rest) > others:
        rest = rest[np.linspace(0, len(rest) - 1, others).astype(np.intp)]
    heights, labels, ends = _axes(table, complete)
    groups, order = group_techniques(table)
    _lines(fig, heights, rest, "others", {"color": MUTED, "width": 0.7}, 0.25)
    for index, (name, mark) in enumerate(order.items()):
        rows = np.flatnonzero(front & (np.array(groups) == index))
        _lines(fig, heights, rows, escape(name), {"color": mark.colour, "width": 2}, 0.9)
    places = list(range(len(labels)))
    for place, (low, high) in enumerate(ends):
        fig.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": MUTED, "width": 1}, layer="below")
        for at, text, anchor in ((-0.02, low, "top"), (1.02, high, "bottom")):
            fig.add_annotation(
                x=place, y=at, text=text, showarrow=False, yanchor=anchor, font={"size": 11, "color": INK},
                bgcolor=PAPER, borderpad=1,
            )  # fmt: skip
    knobs = len(labels) - len(table.objectives)
    if knobs and (heights[complete, :knobs] == _LEFT_ALONE).any():
        fig.add_scatter(
            x=places[:knobs], y=[_LEFT_ALONE] * knobs, mode="markers", showlegend=False, hoverinfo="skip",
            marker={"symbol": "line-ew", "size": 16, "color": MUTED, "line": {"width": 2, "color": MUTED}},
        )  # fmt: skip
        fig.add_annotation(
            x=-0.06, y=_LEFT_ALONE, text="not turned", showarrow=False, xanchor="right", font={"size": 11, "color": INK}
        )
    behind = int((complete & ~front).sum())
    subtitle = f"lines: {plural(int(front.sum()), 'model')} on the front; dimmed: {plural(behind, 'other')}"
    subtitle += f", {len(rest):,} of them drawn" if len(rest) < behind else ""
    fig.update_layout(
        xaxis={"tickvals": places, "ticktext": labels, "showgrid": False, "zeroline": False,
               "side": "bottom", "range": [-0.55, len(labels) - 0.6], "tickangle": -25 if len(labels) > 5 else 0,
               "automargin": True},
        yaxis={"visible": False, "range": [-0.3, 1.15]},
        title={"subtitle": {"text": subtitle}},
    )  # fmt: skip
    return fig


def _axes(
    table: StudyTable, complete: np.ndarray[Any, np.dtype[np.bool_]]
) -> tuple[Floats, list[str], list[tuple[str, str]]]:
    """Return the height of every row on every axis, in [0, 1] or at `_LEFT_ALONE`, with labels and ends."""
    heights, labels, ends = [], [], []
    knobs = knob_frame(table)
    often = knobs[complete].notna().sum().sort_values(ascending=False, kind="stable")
    kept = set(often[often > 0].index[:_MOST_KNOBS])
    for name in knobs.columns:
        if name not in kept:
            continue
        scaled, low, high = _scale(knobs[name], complete)
        heights.append(scaled)
        labels.append(escape(name))
        ends.append((low, high))
    for name in table.objectives:
        values = table.column(f"meter/{name}")
        least, most = float(values[complete].min()), float(values[complete].max())
        if spans_decades(values[complete]):
            values = np.log(np.where(values > 0, values, np.nan))
        bottom, top = values[complete].min(), values[complete].max()
        share = (values - bottom) / (top - bottom) if top > bottom else values * 0 + 0.5
        best_up = table.direction(name) == "maximize"
        heights.append(np.asarray(share if best_up else 1 - share, dtype=np.float64))
        labels.append(f"<b>{escape(name)}</b>")
        shown = tuple(escape(quantity(value, table.unit(name))) for value in (least, most))
        ends.append((shown[0], shown[1]) if best_up else (shown[1], shown[0]))
    return np.column_stack(heights), labels, ends


def _scale(column: pd.Series[Any], complete: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[Floats, str, str]:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(numbers[column.notna().to_numpy()]).all():
        levels = sorted({str(value) for value in column[complete].dropna()})
        place = {level: index / max(len(levels) - 1, 1) for index, level in enumerate(levels)}
        words = [place.get(str(value), math.nan) for value in column]
        return np.nan_to_num(np.array(words, dtype=np.float64), nan=_LEFT_ALONE), escape(levels[0]), escape(levels[-1])
    known = numbers[complete & np.isfinite(numbers)]
    low, high = float(known.min()), float(known.max())
    share = (numbers - low) / (high - low) if high > low else np.where(np.isfinite(numbers), 0.5, np.nan)
    return np.nan_to_num(np.asarray(share, dtype=np.float64), nan=_LEFT_ALONE), f"{low:.4g}", f"{high:.4g}"


def _lines(
    fig: go.Figure,
    heights: Floats,
    rows: Sequence[int] | np.ndarray[Any, Any],
    name: str,
    line: dict[str, Any],
    opacity: float,
) -> None:
    if not len(rows):
        return
    axes = heights.shape[1]
    # One trace holds all lines, with a gap after each.
    x = np.tile(np.append(np.arange(axes, dtype=np.float64), np.nan), len(rows))
    y = np.column_stack([heights[rows], np.full(len(rows), np.nan)]).ravel()
    shown = [None if math.isnan(value) else round(value, 4) for value in y.tolist()]
    fig.add_scatter(
        x=[None if math.isnan(value) else int(value) for value in x.tolist()], y=shown, mode="lines", name=name,
        line=line, opacity=opacity, hoverinfo="skip",
    )  # fmt: skip
