"""Groups of runs in one picture: what a share of the runs attains, and the hypervolume they reach."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from analysis.comparison import FEWEST_RUNS, Groups, check, complete_values, corners, standings
from analysis.pareto.attainment import attainment
from analysis.pareto.hypervolume import box, history
from analysis.plots.style import axis, escape, figure, marks, plain_axis, say, spans_decades
from analysis.wording import meter_name, plural


def attainment_surfaces(groups: Groups) -> go.Figure:
    """Draw what half of a group's runs attain as a line, and what one and all of them attain as thin dashed ones.

    For two objectives; with a single run the surface is its front.
    """
    first = check(groups)
    if len(first.objectives) != 2:
        return say(figure("Attainment surfaces"), "Attainment surfaces are drawn for two objectives")
    x, y = first.objectives
    values = {label: [complete_values(table) for table in runs] for label, runs in groups.items()}
    every = np.concatenate([run for runs in values.values() for run in runs])
    fig = figure(
        f"What the runs attain in {escape(meter_name(x))} and {escape(meter_name(y))}",
        "solid: half of the runs; dashed: the best of them together, and all",
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
    """Draw the mean hypervolume of every group with its 95 % interval, and the runs it is the mean of."""
    found = standings(groups)
    told = f"thin marks: runs; bars: 95 % interval of their mean, from {FEWEST_RUNS} runs on"
    fig = figure("Hypervolume of every group", told, xaxis=plain_axis("hypervolume"))
    if not any(math.isfinite(entry.hypervolume.mean) for entry in found):
        return say(fig, "The studies state no common reference point, so there is no hypervolume")
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
    """Draw the mean hypervolume over the runs of every group against the models measured."""
    first = check(groups)
    reference, ideal = corners(groups)
    fig = figure(
        "Growth of the fronts",
        "mean over the runs of a group",
        xaxis=plain_axis("measured models"),
        yaxis=plain_axis("hypervolume"),
    )
    if not np.isfinite(reference).all():
        return say(fig, "The studies state no common reference point, so there is no hypervolume")
    share = box(reference, ideal, first.directions) if np.isfinite(ideal).all() else 1.0
    for label, mark in marks(groups).items():
        runs = [history(complete_values(table), reference, first.directions) / share for table in groups[label]]
        length = max(map(len, runs))
        if not length:
            continue
        # A run that ended keeps the hypervolume it had.
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
