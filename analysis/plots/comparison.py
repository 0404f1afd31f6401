"""Figures that compare groups of runs: attainment surfaces and hypervolumes."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from analysis.comparison import FEWEST_RUNS, Groups, check, complete_values, corners, standings
from analysis.pareto.attainment import attainment
from analysis.pareto.hypervolume import box, history
from analysis.plots.style import axis, escape, figure, marks, plain_axis, say, spans_decades
from analysis.wording import plural


def attainment_surfaces(groups: Groups) -> go.Figure:
    """Draw the median attainment surface of each group, and dotted those of one run and of all runs.

    For two objectives; the surface of a single run is its front.
    """
    first = check(groups)
    if len(first.objectives) != 2:
        return say(figure("Attainment surfaces"), "Attainment surfaces need two objectives")
    x, y = first.objectives
    values = {label: [complete_values(table) for table in runs] for label, runs in groups.items()}
    every = np.concatenate([run for runs in values.values() for run in runs])
    fig = figure(
        f"Attainment surfaces of {escape(x)} and {escape(y)}",
        "solid: attained by half of the runs; dotted: by one run, and by all runs",
        xaxis=axis(first, x, log=spans_decades(every[:, 0])),
        yaxis=axis(first, y),
    )
    if not len(every):
        return say(fig, "No study has a complete model yet")
    for label, mark in marks(values).items():
        runs = values[label]
        shares = [(0.5, "solid", 2.5)]
        if len(runs) > 1:
            shares += [(1 / len(runs), "dot", 1.0), (1.0, "dot", 1.0)]
        for share, dash, width in shares:
            surface = attainment(runs, share, first.directions)
            median = dash == "solid"
            fig.add_scatter(
                x=surface[:, 0],
                y=surface[:, 1],
                mode="lines+markers" if median else "lines",
                line={"shape": "hv", "color": mark.colour, "width": width, "dash": dash},
                marker={"color": mark.colour, "symbol": mark.symbol, "size": 8},
                name=f"{escape(label)} ({plural(len(runs), 'run')})",
                legendgroup=escape(label),
                showlegend=median,
                opacity=1.0 if median else 0.6,
                hoverinfo="x+y+name" if median else "skip",
            )
    return fig


def hypervolume_intervals(groups: Groups) -> go.Figure:
    """Draw the mean hypervolume of every group with its 95 % interval, and the hypervolume of each run."""
    found = standings(groups)
    subtitle = f"thin marks: runs; bars: 95 % interval of the mean, with at least {FEWEST_RUNS} runs"
    fig = figure("Hypervolume of every group", subtitle, xaxis=plain_axis("hypervolume"))
    if not any(math.isfinite(entry.hypervolume.mean) for entry in found):
        return say(fig, "No hypervolume: the studies have no common reference point")
    order = [entry.label for entry in found][::-1]
    for label, mark in marks(groups).items():
        entry = next(entry for entry in found if entry.label == label)
        mean, low, high, _ = entry.hypervolume
        volumes = [value for value in entry.volumes if math.isfinite(value)]
        fig.add_scatter(
            x=volumes, y=[escape(label)] * len(volumes), mode="markers", showlegend=False, hoverinfo="x",
            marker={"color": mark.colour, "symbol": "line-ns", "size": 12, "line": {"width": 1, "color": mark.colour}},
        )  # fmt: skip
        fig.add_scatter(
            x=[mean],
            y=[escape(label)],
            error_x={"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low],
                     "thickness": 2, "width": 6, "color": mark.colour} if math.isfinite(low) else None,
            mode="markers",
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 12},
            name=escape(label),
            showlegend=False,
            hovertext=f"{escape(label)}: {mean:.4g} over {plural(entry.hypervolume.runs, 'run')}",
            hoverinfo="text",
        )  # fmt: skip
    fig.update_layout(
        yaxis={"categoryorder": "array", "categoryarray": [escape(label) for label in order], "automargin": True}
    )
    return fig


def growth(groups: Groups) -> go.Figure:
    """Draw the mean hypervolume of every group against the number of measured models."""
    first = check(groups)
    reference, ideal = corners(groups)
    fig = figure(
        "Growth of the fronts",
        "mean over the runs of each group",
        xaxis=plain_axis("measured models"),
        yaxis=plain_axis("hypervolume"),
    )
    if not np.isfinite(reference).all():
        return say(fig, "No hypervolume: the studies have no common reference point")
    share = box(reference, ideal, first.directions) if np.isfinite(ideal).all() else 1.0
    for label, mark in marks(groups).items():
        runs = [history(complete_values(table), reference, first.directions) / share for table in groups[label]]
        length = max(map(len, runs))
        if not length:
            continue
        # A run that has ended keeps its last hypervolume.
        filled = [np.concatenate([run, np.full(length - len(run), run[-1] if len(run) else 0.0)]) for run in runs]
        mean = np.mean(filled, axis=0)
        kept = np.unique(np.concatenate([[0], np.flatnonzero(np.diff(mean) > 0) + 1, [length - 1]]).astype(int))
        fig.add_scatter(
            x=kept + 1,
            y=mean[kept],
            mode="lines",
            line={"shape": "hv", "color": mark.colour, "width": 2},
            name=escape(label),
        )
    fig.update_layout(yaxis={"rangemode": "tozero"})
    return fig
