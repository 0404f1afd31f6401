"""Figure of several studies' fronts, with their hypervolumes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from analysis.front import front_frame
from analysis.pareto.dominance import Floats, as_costs
from analysis.pareto.hypervolume import box, hypervolume
from analysis.plots.hover import hover
from analysis.plots.style import axis, escape, figure, marks, plain_axis, say, spans_decades
from analysis.table import StudyTable
from analysis.wording import listing


def fronts(tables_by_label: Mapping[str, StudyTable]) -> go.Figure:
    """Draw the fronts of several studies of the same objectives, with their hypervolumes in the legend.

    All hypervolumes use one reference point, the worst of the studies' own. Where every study states its ideal, they
    are shares of the box up to the best ideal. Raises ValueError without a table or if the objectives differ.
    """
    if not tables_by_label:
        raise ValueError("no study to compare; pass at least one label and table")
    first = next(iter(tables_by_label.values()))
    for label, table in tables_by_label.items():
        if (table.objectives, table.directions) != (first.objectives, first.directions):
            raise ValueError(
                f"studies of different objectives: {label!r} optimises {', '.join(table.objectives)}, not "
                f"{', '.join(first.objectives)}; compare studies of the same objectives"
            )
    names = first.objectives
    x, y = first.plane if len(names) > 1 else ("", names[0])
    members = {label: front_frame(table) for label, table in tables_by_label.items()}
    shown_values = np.concatenate(
        [StudyTable(rows, first.meta, first.folder).values(names) for rows in members.values()]
    )
    volumes, how = _volumes(tables_by_label)
    fig = figure(
        f"Fronts of {listing([escape(name) for name in names])}",
        how,
        xaxis=axis(first, x, log=spans_decades(shown_values[:, 0])) if x else plain_axis("trial"),
        yaxis=axis(first, y),
    )
    if not len(shown_values):
        return say(fig, "No study has a complete model yet")
    # With more than two objectives the projected front is not a staircase, so its members are not joined.
    mode = "lines+markers" if len(names) == 2 else "markers"
    for label, mark in marks(tables_by_label).items():
        rows = members[label]
        part = StudyTable(rows, tables_by_label[label].meta, tables_by_label[label].folder)
        fig.add_scatter(
            x=part.column(f"meter/{x}" if x else "trial"),
            y=part.column(f"meter/{y}"),
            mode=mode,
            line={"shape": "hv", "color": mark.colour, "width": 2},
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 9},
            name=f"{escape(label)}{volumes[label]}",
            hovertext=[f"{escape(label)}<br>{text}" for text in hover(tables_by_label[label], rows)],
            hoverinfo="text",
        )
    return fig


def _volumes(tables: Mapping[str, StudyTable]) -> tuple[dict[str, str], str]:
    first = next(iter(tables.values()))
    reference = _shared([table.corner("reference") for table in tables.values()], first, worst=True)
    if not np.isfinite(reference).all():
        return dict.fromkeys(tables, ""), "no hypervolume: the studies have no common reference point"
    ideal = _shared([table.corner("ideal") for table in tables.values()], first, worst=False)
    share = 1.0
    how = "hypervolume up to the studies' worst reference point"
    if np.isfinite(ideal).all():
        share = box(reference, ideal, first.directions)
        how += ", as a share of the box from the best ideal"
    volumes = {
        label: hypervolume(table.values(table.objectives)[table.complete.to_numpy()], reference, first.directions)
        / share
        for label, table in tables.items()
    }
    return {label: f" · hypervolume {volume:.4g}" for label, volume in volumes.items()}, how


def _shared(corners: list[Floats], table: StudyTable, worst: bool) -> Floats:
    costs = as_costs(np.array(corners), table.directions)
    chosen = costs.max(axis=0) if worst else costs.min(axis=0)
    return as_costs(chosen[None, :], table.directions).ravel()
