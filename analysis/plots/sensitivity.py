"""Heat map of a sensitivity scan: the loss of each layer at each value of its knob."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from analysis.plots.style import GRID, escape, figure, plain_axis

_FEW_CELLS = 400
"""The most cells with a number in each."""


def sensitivity(scan: pd.DataFrame, quality: str) -> go.Figure:
    """Draw the loss of quality as a heat map, with layers in the order of the scan as rows and values as columns.

    Where the rule could not be applied, the cell is empty and its hover text gives the reason.
    """
    table = scan.pivot_table(index="layer", columns="value", values="lost", aggfunc="mean", sort=False, dropna=False)
    table = table.reindex(index=list(dict.fromkeys(scan["layer"])), columns=sorted(scan["value"].unique()))
    why = {(row.layer, row.value): row.why for row in scan.itertuples() if isinstance(row.why, str) and row.why}
    losses = [[float(value) for value in row] for row in table.to_numpy(dtype=float)]
    said = [
        [escape(why.get((layer, value), f"{loss:.4g} lost")) for value, loss in zip(table.columns, row, strict=True)]
        for layer, row in zip(table.index, losses, strict=True)
    ]
    name = escape(quality)
    fig = figure(
        f"Worsening of {name} by layer",
        "each layer compressed alone, without training; empty: the rule could not be applied",
        xaxis={**plain_axis("value of the knob"), "tickangle": 0, "showgrid": False},
        yaxis={**plain_axis(""), "autorange": "reversed", "type": "category", "showgrid": False},
    )
    fig.add_heatmap(
        z=losses, x=[f"{value:g}" for value in table.columns], y=[escape(layer) for layer in table.index],
        colorscale="Cividis_r", customdata=said, hovertemplate="%{y} at %{x}: %{customdata}<extra></extra>",
        colorbar={"title": {"text": "lost", "side": "top"}, "thickness": 12, "outlinewidth": 0},
        xgap=2, ygap=2, hoverongaps=True,
        **({"text": [["" if math.isnan(loss) else f"{loss:.3f}" for loss in row] for row in losses],
            "texttemplate": "%{text}"} if table.size <= _FEW_CELLS else {}),
    )  # fmt: skip
    fig.update_xaxes(type="category")
    # Cells without a number stay visible as cells.
    fig.update_layout(height=max(240, 150 + 26 * len(table)), plot_bgcolor=GRID)
    return fig
