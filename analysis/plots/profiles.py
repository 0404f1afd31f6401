"""Accuracy-degradation profiles: the accuracy of front members on the worst parts of the data."""

from __future__ import annotations

import json
import math

import plotly.graph_objects as go

from analysis.front import front_frame
from analysis.plots.hover import text_or
from analysis.plots.style import INK, OKABE_ITO, SYMBOLS, escape, figure, plain_axis, say
from analysis.table import StudyTable
from analysis.wording import sequence

_MOST = 12
"""The most members to draw; of more, an even selection along the front."""


def has_profiles(table: StudyTable) -> bool:
    """Tell whether the study has profiles."""
    return "test_profile" in table.frame.columns and bool(table.frame["test_profile"].notna().any())


def degradation_profiles(table: StudyTable) -> go.Figure:
    """Draw the held-out accuracy on the worst of 1, 2, 4, … contiguous blocks, for the front and the baseline."""
    fig = figure(
        "Accuracy-degradation profiles on held-out test data",
        "accuracy on the worst of 1, 2, 4, … contiguous blocks; a faster fall than the baseline's means a failing part",
        xaxis=plain_axis("number of blocks"),
        yaxis=plain_axis("accuracy on the worst block"),
    )
    if not has_profiles(table):
        return say(fig, "The study has no profile")
    front = front_frame(table)
    front = front[front["test_profile"].map(lambda text: bool(_profile(text))) & (front["technique"] != "baseline")]
    if len(front) > _MOST:
        front = front.iloc[[round(i * (len(front) - 1) / (_MOST - 1)) for i in range(_MOST)]]
    base = table.frame[table.uncompressed & table.frame["test_profile"].notna()]
    drawn = [("baseline", _profile(text), INK, "star", "base model") for text in base["test_profile"].head(1)]
    drawn = [entry for entry in drawn if entry[1]]
    for index, (_, row) in enumerate(front.iterrows()):
        mark = OKABE_ITO[index % len(OKABE_ITO)], SYMBOLS[index % len(SYMBOLS)]
        drawn.append((str(row["point"]), _profile(row["test_profile"]), *mark, sequence(row["sequence"])))
    blocks = 0
    for name, profile, colour, symbol, moves in drawn:
        blocks = max(blocks, len(profile))
        fig.add_scatter(
            x=[2**index for index in range(len(profile))], y=profile, mode="lines+markers", name=escape(name),
            line={"color": colour, "width": 2.5 if name == "baseline" else 1.5,
                  "dash": "dash" if name == "baseline" else "solid"},
            marker={"color": colour, "symbol": symbol, "size": 8},
            hovertext=[f"<b>{escape(name)}</b> {escape(text_or(moves))}<br>worst of {2**i}: {value:.4g}"
                       for i, value in enumerate(profile)],
            hoverinfo="text",
        )  # fmt: skip
    if not drawn:
        return say(fig, "The study has no profile")
    ticks = [2**index for index in range(blocks)]
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    return fig


def _profile(text: object) -> list[float]:
    try:
        found = json.loads(text) if isinstance(text, str) else []
    except ValueError:
        return []
    known = [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]
    return known if isinstance(found, list) and len(known) == len(found) else []
