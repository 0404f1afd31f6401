"""Style of all figures: colours, symbols, axes, and the neutral tokens that a page replaces for a dark theme."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from analysis.table import StudyTable
from analysis.wording import axis_label, is_bytes, is_plain, quantity

INK, MUTED, GRID, PAPER = "#24292f", "#6e7781", "#e2e5e9", "#ffffff"

# Okabe and Ito, "Color Universal Design", 2008, without black, which is invisible on a dark page. Yellow, which is weak
# on white, comes last.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "pentagon", "star-diamond")
LOG_SPAN = 20.0


class Mark(NamedTuple):
    """Colour and symbol of one technique."""

    colour: str
    symbol: str


def marks(names: Iterable[str]) -> dict[str, Mark]:
    """Assign a colour and a symbol to each name, shorter compositions first; the first 56 pairs differ."""
    ordered = sorted(dict.fromkeys(names), key=lambda name: (name.count("+"), name))
    colours, symbols = len(OKABE_ITO), len(SYMBOLS)
    return {name: Mark(OKABE_ITO[i % colours], SYMBOLS[i % symbols]) for i, name in enumerate(ordered)}


def escape(text: object) -> str:
    """Escape text for plotly, which reads tags and entities in labels."""
    return html.escape(str(text), quote=False)


def spans_decades(values: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    """Tell whether all values are positive and span more than a factor of 20, which suits a log axis."""
    known = values[np.isfinite(values)]
    return bool(len(known) and known.min() > 0 and known.max() / known.min() > LOG_SPAN)


def axis(table: StudyTable, meter: str, log: bool = False) -> dict[str, Any]:
    """Describe the axis of a meter: a title with the unit, and readable ticks for bytes and counts."""
    unit = table.unit(meter)
    shown: dict[str, Any] = plain_axis(axis_label(meter, unit, table.direction(meter)))
    if log:
        shown["type"] = "log"
    known = table.column(f"meter/{meter}")
    known = known[np.isfinite(known)]
    if log:
        shown["tickvals"] = log_ticks(float(known.min()), float(known.max()))
        shown["ticktext"] = [quantity(value, unit if is_bytes(unit) else "") for value in shown["tickvals"]]
    elif is_bytes(unit) or (is_plain(unit) and np.max(known, initial=0.0) >= 1e4):
        shown["tickformat"] = "~s"
        shown["ticksuffix"] = "B" if is_bytes(unit) else ""
    return shown


def log_ticks(low: float, high: float) -> list[float]:
    """Choose round ticks for a log axis, because plotly's own are crowded and mostly without a unit."""
    decades = math.log10(high / low)
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1.5 else (1.0, 2.0, 5.0) if decades < 3.5 else (1.0,)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    return [step * 10.0**exponent for exponent in exponents for step in steps]


def plain_axis(title: str) -> dict[str, Any]:
    """Describe an axis with a title in the common style."""
    return {
        "title": {"text": escape(title), "standoff": 12},
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": MUTED,
        "automargin": True,
    }


def figure(title: str, subtitle: str = "", **layout: Any) -> go.Figure:
    """Start a figure with the common layout; `title` and `subtitle` must be escaped already."""
    return go.Figure(
        layout={
            "template": None,
            "title": {
                "text": title,
                "subtitle": {"text": subtitle, "font": {"size": 13, "color": MUTED}},
                "x": 0.01,
                "xanchor": "left",
                "font": {"size": 18},
            },
            "font": {
                "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
                "color": INK,
                "size": 13,
            },
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "hovermode": "closest",
            "hoverlabel": {"align": "left", "bgcolor": PAPER, "font": {"color": INK, "size": 13}},
            "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "itemsizing": "constant"},
            "margin": {"l": 70, "r": 30, "t": 90, "b": 60},
            **layout,
        }
    )


def say(fig: go.Figure, text: str) -> go.Figure:
    """Write one sentence in place of the points."""
    fig.update_layout(xaxis={"visible": False}, yaxis={"visible": False}, title={"subtitle": {"text": ""}})
    fig.add_annotation(
        text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 16, "color": MUTED}
    )
    return fig
