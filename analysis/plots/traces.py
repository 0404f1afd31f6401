"""Figure of policies' traces: a line for each trial from the base model, a point for each accepted move."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go

from analysis.comparison import Groups, check
from analysis.plots.style import axis, escape, figure, marks, say, spans_decades
from analysis.table import StudyTable
from analysis.wording import plural, sequence


def is_policy(table: StudyTable) -> bool:
    """Tell whether a study's trials are runs of a policy, rather than knob vectors."""
    config = table.meta.get("config")
    return isinstance(config, dict) and bool(config.get("policy"))


def traces(groups: Groups) -> go.Figure:
    """Draw the traces of every group's trials in the plane of two objectives, by validation values."""
    first = check(groups)
    if len(first.objectives) != 2:
        return say(figure("Traces"), "Traces need two objectives")
    x, y = first.objectives
    ways = {label: [way for table in runs for way in _ways(table)] for label, runs in groups.items()}
    every = np.array([values for found in ways.values() for way in found for values, _ in way]).reshape(-1, 2)
    fig = figure(
        "Traces of the policies",
        "a line for each trial from the base model, a point for each move",
        xaxis=axis(first, x, log=spans_decades(every[:, 0])),
        yaxis=axis(first, y),
    )
    if not len(every):
        return say(fig, "No study has a complete model yet")
    for label, mark in marks(ways).items():
        found = ways[label]
        fig.add_scatter(
            x=[value for way in found for value in [*(values[0] for values, _ in way), None]],
            y=[value for way in found for value in [*(values[1] for values, _ in way), None]],
            text=[text for way in found for text in [*(said for _, said in way), ""]],
            mode="lines+markers",
            line={"color": mark.colour, "width": 1.2},
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 6},
            opacity=0.7,
            connectgaps=False,
            name=f"{escape(label)} ({plural(len(found), 'trial')})",
            hovertemplate=f"%{{text}}<br>{escape(x)}: %{{x}}<br>{escape(y)}: %{{y}}",
        )
    return fig


def _ways(table: StudyTable) -> Iterator[list[tuple[tuple[float, float], str]]]:
    """Yield the values and moves of each trial's complete models in order, the base model first."""
    values = table.values(table.objectives)
    rows = table.frame.reset_index(drop=True)
    usable = rows[table.complete.to_numpy() & np.isfinite(values).all(1)]
    base = table.baseline(table.objectives[0])[0], table.baseline(table.objectives[1])[0]
    for _, trial in usable[usable["step"] > 0].groupby("trial"):
        way = [(base, "base model")] if all(map(math.isfinite, base)) else []
        for index, moves in trial.sort_values("step")["sequence"].items():
            place = values[int(str(index))]
            way.append(((float(place[0]), float(place[1])), escape(sequence(moves))))
        yield way
