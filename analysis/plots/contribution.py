"""What each technique adds to the front."""

from __future__ import annotations

import plotly.graph_objects as go

from analysis.contribution import contributions
from analysis.plots.style import OKABE_ITO, escape, figure, plain_axis, say
from analysis.table import StudyTable


def technique_contribution(table: StudyTable) -> go.Figure:
    """Draw the hypervolume that goes with each technique and the one that it reaches alone."""
    found = contributions(table)
    fig = figure("What each technique adds", xaxis=plain_axis("hypervolume"), yaxis={"automargin": True})
    if not found:
        return say(fig, "No reference point or no technique, so nothing to share out")
    names = [escape(entry.technique) for entry in found][::-1]
    bars = (
        ("reached by it alone", [entry.alone for entry in found], OKABE_ITO[5], "/"),
        ("lost without it", [entry.lost for entry in found], OKABE_ITO[0], ""),
    )
    for name, values, colour, shape in bars:
        fig.add_bar(
            y=names,
            x=values[::-1],
            orientation="h",
            name=name,
            marker={"color": colour, "pattern": {"shape": shape}},
            hovertext=[f"{entry}: {value:.4g} {name}" for entry, value in zip(names, values[::-1], strict=True)],
            hoverinfo="text",
        )
    fig.update_layout(barmode="group", legend={"traceorder": "reversed"}, xaxis={"rangemode": "tozero"})
    return fig
