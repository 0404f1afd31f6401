"""Figure of a single objective: its values against the trials, and the best so far."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from analysis.pareto.dominance import as_costs
from analysis.plots.hover import hover, text_or
from analysis.plots.style import INK, MUTED, PAPER, axis, escape, figure, marks, plain_axis, say
from analysis.table import StudyTable
from analysis.wording import plural, quantity


def strip(table: StudyTable) -> go.Figure:
    """Draw the values of the only objective against the trial number, with the best so far as a step line."""
    meter = table.objectives[0]
    values = table.values((meter,))
    complete = (table.complete & ~table.uncompressed).to_numpy(dtype=np.bool_) & np.isfinite(values[:, 0])
    fig = figure(
        f"{escape(meter)} of every model",
        f"{plural(int(complete.sum()), 'complete model')}; solid: best so far, dashed: baseline",
        xaxis=plain_axis("trial"),
        yaxis=axis(table, meter),
    )
    if not complete.any():
        return say(fig, f"No complete model has a reading of {escape(meter)} yet")
    technique = table.frame["technique"].map(text_or).replace("", "unknown")
    for name, mark in marks(technique[complete]).items():
        rows = table.frame[complete & (technique == name).to_numpy()]
        part = StudyTable(rows, table.meta, table.folder)
        stderrs = np.nan_to_num(part.column(f"stderr/{meter}"))
        fig.add_scatter(
            x=part.column("trial"),
            y=part.column(f"meter/{meter}"),
            error_y={"type": "data", "array": stderrs, "thickness": 1, "width": 2} if stderrs.any() else None,
            mode="markers",
            name=escape(name),
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 8, "opacity": 0.75},
            hovertext=hover(table, rows),
            hoverinfo="text",
        )
    trials = table.column("trial")[complete]
    order = np.argsort(trials, kind="stable")
    sign = -1.0 if table.directions[0] == "maximize" else 1.0
    best = sign * np.minimum.accumulate(as_costs(values[complete], table.directions)[order, 0])
    fig.add_scatter(
        x=trials[order],
        y=best,
        mode="lines",
        line={"shape": "hv", "color": INK, "width": 1.5},
        name="best so far",
        hoverinfo="skip",
    )
    baseline, stderr = table.baseline(meter)
    if math.isfinite(baseline):
        shown = escape(quantity(baseline, table.unit(meter), stderr))
        fig.add_hline(
            y=baseline,
            line={"color": MUTED, "dash": "dash", "width": 1},
            annotation={"text": f"★ baseline {shown}", "bgcolor": PAPER},
            annotation_position="bottom right",
        )
    return fig
