"""How the front grew: hypervolume against the trials."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.front import Floats
from analysis.hypervolume import box, history
from analysis.plots.style import MUTED, OKABE_ITO, figure, plain_axis, say
from analysis.table import StudyTable


class Progress(NamedTuple):
    """Hypervolume after each finished trial, both (t,); a share of the box to the ideal when `normalised`."""

    trials: Floats
    volumes: Floats
    normalised: bool


def progress(table: StudyTable) -> Progress | None:
    """Compute the hypervolume after each trial, in the order the trials finished; None without a reference point."""
    reference, ideal = table.corner("reference"), table.corner("ideal")
    if not np.isfinite(reference).all():
        return None
    finished = pd.to_datetime(table.frame["finished"], errors="coerce", utc=True, format="ISO8601")
    ended = finished.groupby(table.frame["trial"]).transform("max")
    ordered = pd.DataFrame({"ended": ended, "trial": table.frame["trial"], "step": table.frame["step"]})
    ordered = ordered.sort_values(["ended", "trial", "step"], kind="stable", na_position="last")
    values = table.values(table.objectives)
    values[~table.complete.to_numpy(dtype=np.bool_)] = np.nan
    volumes = history(values[ordered.index.to_numpy()], reference, table.directions)
    last_of_trial = ~ordered["trial"].duplicated(keep="last").to_numpy()
    share = box(reference, ideal, table.directions) if np.isfinite(ideal).all() else 1.0
    trials = np.arange(1, int(last_of_trial.sum()) + 1, dtype=np.float64)
    return Progress(trials, volumes[last_of_trial] / share, bool(np.isfinite(ideal).all()))


def hypervolume_history(table: StudyTable) -> go.Figure:
    """Draw the hypervolume of the front after each finished trial, failed ones counted."""
    name = "hypervolume"
    fig = figure("Growth of the Pareto front", xaxis=plain_axis("finished trials"), yaxis=plain_axis(name))
    computed = progress(table)
    if computed is None:
        return say(fig, "The study states no reference point, so there is no hypervolume")
    if not len(computed.trials):
        return say(fig, "No trial has finished yet")
    if computed.normalised:
        fig.update_layout(yaxis={"title": {"text": "hypervolume, share of the ideal"}})
    reached = int(np.argmax(computed.volumes >= 0.99 * computed.volumes[-1])) + 1
    if computed.volumes[-1] > 0:
        text = f"{computed.volumes[-1]:.4g} after {len(computed.trials):,}; 99 % of it after {reached:,}"
        fig.update_layout(title={"subtitle": {"text": text}})
        fig.add_vline(x=reached, line={"color": MUTED, "dash": "dot", "width": 1})
    fig.add_scatter(
        x=computed.trials,
        y=computed.volumes,
        mode="lines" if len(computed.trials) > 1 else "markers",
        line={"shape": "hv", "color": OKABE_ITO[0], "width": 2},
        showlegend=False,
        hovertext=[
            f"{value:.4g} after {trial:.0f}" for trial, value in zip(computed.trials, computed.volumes, strict=True)
        ],
        hoverinfo="text",
    )
    fig.update_layout(yaxis={"rangemode": "tozero"})
    return fig
