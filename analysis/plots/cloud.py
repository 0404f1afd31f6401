"""Scatter plot of three objectives in space, with their front."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from analysis.front import front_of
from analysis.plots.hover import hover, text_or
from analysis.plots.style import INK, PAPER, axis, escape, figure, marks, say, spans_decades
from analysis.table import StudyTable
from analysis.wording import head, listing, plural

# Plotly has few symbols in space; these differ at any angle.
_SYMBOLS = ("circle", "square", "diamond", "cross", "circle-open")


def cloud(table: StudyTable) -> go.Figure:
    """Draw the first three objectives in space, and the front of all objectives."""
    names = table.objectives[:3]
    values = table.values(names)
    known = np.isfinite(values).all(axis=1)
    complete = table.complete.to_numpy(dtype=np.bool_) & known
    on_front = front_of(table)
    title = f"Pareto front of {listing([escape(name) for name in table.objectives])}"
    fig = figure(title, f"{int(on_front.sum()):,} of {plural(int(complete.sum()), 'model')} on the front")
    if not complete.any():
        return say(fig, "No complete model has all objectives yet")
    baseline = np.array([table.baseline(name)[0] for name in names])
    axes = {}
    for index, (key, name) in enumerate(zip(("xaxis", "yaxis", "zaxis"), names, strict=True)):
        shown = axis(table, name, log=spans_decades(np.append(values[complete, index], baseline[index])))
        axes[key] = {entry: shown[entry] for entry in shown if entry not in ("automargin",)}
        said = head(escape(name), table.kind(name), table.direction(name), ", lower is better")
        axes[key]["title"] = {"text": said, "font": {"size": 12}}
        axes[key]["backgroundcolor"] = PAPER
    fig.update_layout(
        scene={
            **axes,
            "aspectmode": "cube",
            "domain": {"y": [0.1, 1]},
            "camera": {"eye": {"x": 1.7, "y": 1.7, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.15}},
        },
        margin={"l": 0, "r": 0, "t": 90, "b": 0},
        legend={"y": 0},
    )
    complete &= ~table.uncompressed.to_numpy(dtype=np.bool_)
    technique = table.frame["technique"].map(text_or).replace("", "unknown")
    for index, (name, mark) in enumerate(marks(technique[complete]).items()):
        of_it = complete & (technique == name).to_numpy()
        for mask, opacity, size in ((of_it & ~on_front, 0.25, 3), (of_it & on_front, 1.0, 6)):
            if not mask.any():
                continue
            rows = table.frame[mask]
            fig.add_scatter3d(
                x=values[mask, 0],
                y=values[mask, 1],
                z=values[mask, 2],
                mode="markers",
                name=escape(name),
                legendgroup=escape(name),
                showlegend=opacity == 1.0 or not (of_it & on_front).any(),
                marker={
                    "color": mark.colour,
                    "symbol": _SYMBOLS[index % len(_SYMBOLS)],
                    "size": size,
                    "opacity": opacity,
                },
                hovertext=hover(table, rows),
                hoverinfo="text",
            )
    if np.isfinite(baseline).all():
        fig.add_scatter3d(
            x=baseline[:1],
            y=baseline[1:2],
            z=baseline[2:],
            mode="markers+text",
            name="baseline",
            text=["★ baseline"],
            marker={"color": INK, "symbol": "diamond-open", "size": 7},
            hovertext=["<b>baseline</b> (uncompressed)"],
            hoverinfo="text",
        )
    return fig
