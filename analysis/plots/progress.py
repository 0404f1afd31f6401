"""Growth of the front: hypervolume against the trials or their seconds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.pareto.dominance import Floats
from analysis.pareto.hypervolume import box, history
from analysis.plots.style import MUTED, OKABE_ITO, figure, plain_axis, say
from analysis.table import StudyTable


class Progress(NamedTuple):
    """Hypervolume after each finished trial; all arrays are (t,). If `normalised`, a share of the box to the ideal.

    `training` counts the seconds of fine-tuning so far, `seconds` all seconds, summed over trials.
    """

    trials: Floats
    volumes: Floats
    normalised: bool
    training: Floats
    seconds: Floats


def progress(table: StudyTable) -> Progress | None:
    """Compute the hypervolume after each trial, in the order of finishing; None without a reference point."""
    reference, ideal = table.corner("reference"), table.corner("ideal")
    if not np.isfinite(reference).all():
        return None
    finished = pd.to_datetime(table.frame["finished"], errors="coerce", utc=True, format="ISO8601")
    ended = finished.groupby(table.frame["trial"]).transform("max")
    ordered = pd.DataFrame({"ended": ended, "trial": table.frame["trial"], "step": table.frame["step"]})
    # The base model comes before the first trial and is not a trial.
    ordered = ordered.assign(asked=ordered["trial"] >= 0)
    ordered = ordered.sort_values(["asked", "ended", "trial", "step"], kind="stable", na_position="last")
    values = table.values(table.objectives)
    values[~table.complete.to_numpy(dtype=np.bool_)] = np.nan
    volumes = history(values[ordered.index.to_numpy()], reference, table.directions)
    last_of_trial = (ordered["asked"] & ~ordered["trial"].duplicated(keep="last")).to_numpy(dtype=np.bool_)
    share = box(reference, ideal, table.directions) if np.isfinite(ideal).all() else 1.0
    trials = np.arange(1, int(last_of_trial.sum()) + 1, dtype=np.float64)
    parts = [str(name) for name in table.frame.columns if str(name).startswith("seconds/")]
    spent = {
        name: np.cumsum(np.nan_to_num(table.column(name))[ordered.index.to_numpy()])[last_of_trial] for name in parts
    }
    nothing = np.zeros(len(trials))
    return Progress(
        trials,
        volumes[last_of_trial] / share,
        bool(np.isfinite(ideal).all()),
        spent.get("seconds/finetune", nothing),
        np.sum(list(spent.values()), axis=0) if spent else nothing,
    )


def hypervolume_history(table: StudyTable, against: str = "trials") -> go.Figure:
    """Draw the hypervolume of the front after each finished trial, failed ones included.

    `against` is `trials`, `training` (seconds of fine-tuning) or `seconds` (all seconds). Raises ValueError for any
    other value.
    """
    axes = {"trials": "finished trials", "training": "seconds of fine-tuning", "seconds": "seconds of all trials"}
    if against not in axes:
        raise ValueError(f"not an axis: against={against!r}; write one of {', '.join(axes)}")
    fig = figure("Growth of the Pareto front", xaxis=plain_axis(axes[against]), yaxis=plain_axis("hypervolume"))
    computed = progress(table)
    if computed is None:
        return say(fig, "No hypervolume: the study states no reference point")
    if not len(computed.trials):
        return say(fig, "No trial has finished yet")
    spent = getattr(computed, against)
    if not spent[-1]:
        return say(fig, f"The table records no {axes[against]}")
    if computed.normalised:
        fig.update_layout(yaxis={"title": {"text": "hypervolume, share of the box"}})
    reached = int(np.argmax(computed.volumes >= 0.99 * computed.volumes[-1]))
    unit = " trials" if against == "trials" else " s"
    if computed.volumes[-1] > 0:
        text = f"{computed.volumes[-1]:.4g} after {spent[-1]:,.0f}{unit}; 99 % of it after {spent[reached]:,.0f}{unit}"
        fig.update_layout(title={"subtitle": {"text": text}})
        fig.add_vline(x=float(spent[reached]), line={"color": MUTED, "dash": "dot", "width": 1})
    kept = _steps(computed.volumes)
    fig.add_scatter(
        x=spent[kept],
        y=computed.volumes[kept],
        mode="lines" if len(computed.trials) > 1 else "markers",
        line={"shape": "hv", "color": OKABE_ITO[0], "width": 2},
        showlegend=False,
        hovertext=[f"{computed.volumes[i]:.4g} after {spent[i]:,.0f}{unit}" for i in kept],
        hoverinfo="text",
    )
    fig.update_layout(yaxis={"rangemode": "tozero"})
    return fig


def _steps(volumes: Floats, most: int = 2000) -> list[int]:
    """Choose the trials to draw: all of a short history, those that change the volume of a long one."""
    if len(volumes) <= most:
        return list(range(len(volumes)))
    return [0, *(np.flatnonzero(np.diff(volumes) > 0) + 1).tolist(), len(volumes) - 1]
