"""Non-dominated sorting: which front of all points each point is on once the fronts before it are taken away."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import moocore
import numpy as np

from analysis.front import Floats, as_costs

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
