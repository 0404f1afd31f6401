"""The Pareto front: which points no other point beats in every objective at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import moocore
import numpy as np
import pandas as pd

from analysis.table import StudyTable

Floats = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class CloseNeighbours(NamedTuple):
    """Two neighbours on the front whose order in `meter` lies inside the noise of the measurement."""

    left: str
    right: str
    meter: str
    difference: float
    stderr: float


def as_costs(values: Floats, directions: Sequence[str]) -> Floats:
    """Flip the sign of maximised columns, so that smaller is better everywhere.

    `values` is (n, d), `directions` has d entries `minimize` or `maximize`. Raises ValueError for anything else.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(directions) or values.shape[1] == 0:
        raise ValueError(
            f"values of shape {values.shape} do not fit {len(directions)} directions; need (n, d) with d >= 1"
        )
    unknown = [direction for direction in directions if direction not in ("minimize", "maximize")]
    if unknown:
        raise ValueError(f"direction {unknown[0]!r} is neither 'minimize' nor 'maximize'")
    signs = np.array([1.0 if direction == "minimize" else -1.0 for direction in directions])
    return np.asarray(values * signs, dtype=np.float64)


def non_dominated(values: Floats, directions: Sequence[str]) -> Mask:
    """Mark the rows of (n, d) `values` that no other row dominates, as (n,) bools.

    Row a dominates row b when it is at least as good in every objective and better in one. Rows with a value that is
    not finite are never marked; of equal rows only the first is. O(n log n) for one or two objectives (Kung, Luccio
    and Preparata 1975), moocore beyond. Raises ValueError when shapes or directions do not fit.
    """
    costs = as_costs(values, directions)
    mask = np.zeros(len(costs), dtype=np.bool_)
    rows = np.flatnonzero(np.isfinite(costs).all(axis=1))
    if not len(rows):
        return mask
    costs = costs[rows]
    # In lexicographic order nothing later can dominate anything earlier; the sort is stable, so of equal rows the
    # first leads.
    order = np.lexsort(costs.T[::-1])
    costs = costs[order]
    if costs.shape[1] == 1:
        kept = np.arange(1)
    elif costs.shape[1] == 2:
        best_before = np.concatenate(([np.inf], np.minimum.accumulate(costs[:-1, 1])))
        kept = np.flatnonzero(costs[:, 1] < best_before)
    else:
        kept = _beyond_two(costs)
    mask[rows[order[kept]]] = True
    return mask


def _beyond_two(costs: Floats) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the front of rows in lexicographic order, of equal rows the first."""
    first = np.flatnonzero(np.append(True, (np.diff(costs, axis=0) != 0).any(axis=1)))
    return first[np.asarray(moocore.is_nondominated(costs[first]), dtype=np.bool_)]


def front_of(table: StudyTable, objectives: Sequence[str] | None = None) -> Mask:
    """Mark the rows of the table on the front of its complete points, as (n,) bools.

    `objectives` names other meters than the study's own to take the front of.
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


def within_noise(values: Floats, stderrs: Floats) -> Mask:
    """Mark neighbours whose values differ by less than the standard error of their difference.

    `values` and `stderrs` are (m,), in the order of the front; entry i of the (m - 1,) result is about rows i and i +
    1: |Δ| < sqrt(se_i² + se_{i+1}²), the two measurements taken as independent. An unknown standard error counts as
    zero.
    """
    values = np.asarray(values, dtype=np.float64)
    variances = np.nan_to_num(np.asarray(stderrs, dtype=np.float64)) ** 2
    return np.asarray(np.abs(np.diff(values)) < np.sqrt(variances[:-1] + variances[1:]), dtype=np.bool_)


def close_neighbours(table: StudyTable) -> tuple[CloseNeighbours, ...]:
    """List the neighbours on the front whose order is inside the noise, for every objective with standard errors."""
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
