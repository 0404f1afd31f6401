"""A sensitivity scan as a map: what each layer loses at each value of its knob."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from analysis.plots.style import escape, figure, plain_axis


def sensitivity(scan: pd.DataFrame, quality: str) -> go.Figure:
    """Draw the quality lost as a heat map, layers in the order of the scan down, values across.

    Cells without a number are layers that could not be changed so; the text under the pointer says why.
    """
    table = scan.pivot_table(index="layer", columns="value", values="lost", aggfunc="mean", sort=False, dropna=False)
    table = table.reindex(index=list(dict.fromkeys(scan["layer"])), columns=sorted(scan["value"].unique()))
    why = {(row.layer, row.value): row.why for row in scan.itertuples() if isinstance(row.why, str) and row.why}
    text = [
        [escape(why.get((layer, value), f"{table.loc[layer, value]:.4g} lost")) for value in table.columns]
        for layer in table.index
    ]
    fig = figure(
        f"What each layer loses of {escape(quality)}",
        "each layer changed alone, nothing trained; empty: it could not be changed so",
        xaxis=plain_axis("value of the knob"),
        yaxis={**plain_axis(""), "autorange": "reversed", "type": "category"},
    )
    fig.add_heatmap(
        z=table.to_numpy(), x=[f"{value:g}" for value in table.columns], y=[escape(layer) for layer in table.index],
        colorscale="Cividis_r", text=text, hovertemplate="%{y} at %{x}: %{text}<extra></extra>",
        colorbar={"title": "lost"},
    )  # fmt: skip
    fig.update_xaxes(type="category")
    fig.update_layout(height=max(360, 140 + 18 * len(table)), margin={"l": 220})
    return fig
