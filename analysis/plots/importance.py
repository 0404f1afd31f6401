"""Figure of knob importance, for every objective and for reaching the front."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from analysis.importance import FEWEST, Importance, importance, importance_for_front
from analysis.plots.style import OKABE_ITO, escape, figure, plain_axis, say
from analysis.table import StudyTable

_MOST = 20


def knob_importance(table: StudyTable) -> go.Figure:
    """Draw the importance of every knob as bars: by objective, and for being on or near the front.

    `analysis.importance` defines the numbers. At most the twenty most important knobs are shown.
    """
    found: dict[str, Importance | None] = {f"for {name}": importance(table, name) for name in table.objectives}
    found["for reaching the front"] = importance_for_front(table)
    known = {name: entry for name, entry in found.items() if entry is not None}
    fig = figure("Knob importance", _explained(known), xaxis=plain_axis("importance"), yaxis={"automargin": True})
    if not known:
        return say(fig, f"Too few different models: importance needs at least {FEWEST}")
    totals: dict[str, float] = {}
    for entry in known.values():
        for knob, share in entry.shares.items():
            totals[knob] = totals.get(knob, 0.0) + share
    knobs = sorted(totals, key=lambda knob: totals[knob])[-_MOST:]
    for index, (name, entry) in enumerate(known.items()):
        fig.add_bar(
            y=[escape(knob) for knob in knobs],
            x=[entry.shares.get(knob, 0.0) for knob in knobs],
            orientation="h",
            name=escape(name),
            marker={"color": OKABE_ITO[index % len(OKABE_ITO)], "pattern": {"shape": ("", "/", ".", "x")[index % 4]}},
            hovertext=[f"{escape(knob)} {escape(name)}: {entry.shares.get(knob, 0.0):.3f}" for knob in knobs],
            hoverinfo="text",
        )
    fig.update_layout(barmode="group", xaxis={"rangemode": "tozero"}, legend={"traceorder": "reversed"})
    return fig


def _explained(known: dict[str, Importance]) -> str:
    parts = [
        f"{escape(name)}, the forest explains {100 * max(entry.explained, 0):.0f} % of out-of-bag variance"
        for name, entry in known.items()
        if not math.isnan(entry.explained)
    ]
    return "; ".join(parts)
