"""Pareto dominance on arrays: non-dominated rows, their ranks, and orders inside the noise."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import moocore
import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


Mask = np.ndarray[Any, np.dtype[np.bool_]]


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


def within_noise(values: Floats, stderrs: Floats) -> Mask:
    """Mark neighbours whose values differ by less than the standard error of their difference.

    `values` and `stderrs` are (m,), in the order of the front; entry i of the (m - 1,) result is about rows i and i +
    1: |Δ| < sqrt(se_i² + se_{i+1}²), the two measurements taken as independent. An unknown standard error counts as
    zero.
    """
    values = np.asarray(values, dtype=np.float64)
    variances = np.nan_to_num(np.asarray(stderrs, dtype=np.float64)) ** 2
    return np.asarray(np.abs(np.diff(values)) < np.sqrt(variances[:-1] + variances[1:]), dtype=np.bool_)


Ranks = np.ndarray[Any, np.dtype[np.intp]]


def ranks(values: Floats, directions: Sequence[str]) -> Ranks:
    """Return the rank of every row of (n, d) `values` as (n,) whole numbers, 0 for the front.

    Equal rows share a rank; a row with a value that is not finite has rank -1. One and two objectives cost O(n log n)
    (Jensen 2003), more are ranked by moocore. Raises ValueError when shapes or directions do not fit.
    """
    costs = as_costs(values, directions)
    found = np.full(len(costs), -1, dtype=np.intp)
    rows = np.flatnonzero(np.isfinite(costs).all(axis=1))
    if not len(rows):
        return found
    # `unique` sorts the rows in lexicographic order, in which nothing later dominates anything earlier.
    different, copies = np.unique(costs[rows], axis=0, return_inverse=True)
    if different.shape[1] == 1:
        ranked = np.arange(len(different), dtype=np.intp)
    elif different.shape[1] == 2:
        ranked = _planar(different[:, 1])
    else:
        ranked = np.asarray(moocore.pareto_rank(different), dtype=np.intp)
    found[rows] = ranked[copies.ravel()]
    return found


def _planar(second: Floats) -> Ranks:
    """Rank different points that come in lexicographic order by their second cost alone."""
    # A point is dominated by a front exactly when the front's least second cost so far is no larger than its own; these
    # leasts rise from front to front, so the point's front is found by bisection.
    least: list[float] = []
    ranked = np.empty(len(second), dtype=np.intp)
    for index, value in enumerate(second.tolist()):
        front = bisect_right(least, value)
        ranked[index] = front
        least[front : front + 1] = [value]
    return ranked
