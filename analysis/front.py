"""The Pareto front of a study: the points that no other point dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.pareto.dominance import BoolArray, as_costs, non_dominated, within_noise
from analysis.table import StudyTable


class CloseNeighbours(NamedTuple):
    """Two neighbours on the front whose order in `meter` is within the measurement noise."""

    left: str
    right: str
    meter: str
    difference: float
    stderr: float


def front_of(table: StudyTable, objectives: Sequence[str] | None = None) -> BoolArray:
    """Mark the rows of the table on the front of its complete points, as (n,) bools.

    `objectives` names the meters of the front; by default the study's objectives.
    """
    names = table.objectives if objectives is None else tuple(objectives)
    directions = table.directions if objectives is None else [table.direction(name) for name in names]
    values = table.values(names)
    values[~table.complete.to_numpy(dtype=np.bool_)] = np.nan
    return non_dominated(values, directions)


def front_frame(table: StudyTable, objectives: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows of the front, best value of the first objective first."""
    names = table.objectives if objectives is None else tuple(objectives)
    directions = table.directions if objectives is None else [table.direction(name) for name in names]
    mask = front_of(table, objectives)
    order = np.lexsort(as_costs(table.values(names), directions)[mask].T[::-1])
    return table.frame[mask].iloc[order]


def close_neighbours(table: StudyTable) -> tuple[CloseNeighbours, ...]:
    """List the neighbours on the front whose order is within the noise, for each objective with standard errors."""
    front = StudyTable(front_frame(table), table.meta, table.folder)
    points = [str(point) for point in front.frame["point"]]
    found = []
    for meter in table.objectives:
        values, stderrs = front.column(f"meter/{meter}"), front.column(f"stderr/{meter}")
        for index in np.flatnonzero(within_noise(values, stderrs)):
            difference = float(abs(values[index + 1] - values[index]))
            stderr = float(np.sqrt(np.nansum(stderrs[index : index + 2] ** 2)))
            found.append(CloseNeighbours(points[index], points[index + 1], meter, difference, stderr))
    return tuple(found)
