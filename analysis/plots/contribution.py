"""Figure of the techniques' contributions to the front."""

from __future__ import annotations

import plotly.graph_objects as go

from analysis.contribution import contributions
from analysis.plots.style import OKABE_ITO, escape, figure, plain_axis, say
from analysis.table import StudyTable


def technique_contribution(table: StudyTable) -> go.Figure:
    """Draw the hypervolume lost without each technique and the hypervolume of each technique alone."""
    found = contributions(table)
    fig = figure("Contribution of each technique", xaxis=plain_axis("hypervolume"), yaxis={"automargin": True})
    if not found:
        return say(fig, "No contributions: the study has no reference point or no technique")
    names = [escape(entry.technique) for entry in found][::-1]
    bars = (
        ("of this technique alone", [entry.alone for entry in found], OKABE_ITO[5], "/"),
        ("lost without this technique", [entry.lost for entry in found], OKABE_ITO[0], ""),
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
