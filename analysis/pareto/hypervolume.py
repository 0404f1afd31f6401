"""Hypervolume: the volume a set of points dominates, up to a reference point (Zitzler and Thiele 1999)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import moocore
import numpy as np

from analysis.pareto.dominance import Floats, as_costs, finite_rows


def hypervolume(values: Floats, reference: Sequence[float] | Floats, directions: Sequence[str]) -> float:
    """Measure the volume dominated by `values` (n, d) and bounded by `reference` (d,), exactly.

    The volume is in the product of the objectives' units, ≥ 0. Points that are not finite, or not strictly better than
    the reference in every objective, add nothing. Raises ValueError if shapes or directions do not fit or the reference
    is not finite.
    """
    corner = _corner(reference, directions)
    costs = as_costs(values, directions)
    return float(moocore.hypervolume(costs[finite_rows(costs)], ref=corner))


def hypervolume_share(
    values: Floats, reference: Sequence[float] | Floats, ideal: Sequence[float] | Floats, directions: Sequence[str]
) -> float:
    """Measure the hypervolume as a share of the box between `reference` and `ideal`, both (d,).

    In [0, 1] if no point is better than the ideal. Raises ValueError if the ideal is not better than the reference.
    """
    return hypervolume(values, reference, directions) / box(reference, ideal, directions)


def box(reference: Sequence[float] | Floats, ideal: Sequence[float] | Floats, directions: Sequence[str]) -> float:
    """Return the volume of the box between `reference` and `ideal`, both (d,)."""
    sides = _corner(reference, directions) - _corner(ideal, directions)
    if not (sides > 0).all():
        raise ValueError(f"ideal {list(ideal)} is not better than reference {list(reference)} in every objective")
    return float(sides.prod())


def history(values: Floats, reference: Sequence[float] | Floats, directions: Sequence[str]) -> Floats:
    """Return the hypervolume after each row of (n, d) `values`, in their order, as (n,) floats.

    Two objectives cost O(log n) per row; with more, the volume is computed again only where the front changes.
    """
    corner = _corner(reference, directions)
    costs = as_costs(values, directions)
    useful = finite_rows(costs) & (costs < corner).all(axis=1)
    gains = np.zeros(len(costs))
    if costs.shape[1] == 2:
        staircase = _Staircase(float(corner[0]), float(corner[1]))
        for row in np.flatnonzero(useful):
            gains[row] = staircase.add(float(costs[row, 0]), float(costs[row, 1]))
        return np.cumsum(gains)
    members, volume = np.empty((0, costs.shape[1])), 0.0
    minimise = ["minimize"] * costs.shape[1]
    for row in np.flatnonzero(useful):
        if (members <= costs[row]).all(axis=1).any():
            continue
        members = np.vstack([members[~(costs[row] <= members).all(axis=1)], costs[row]])
        grown = hypervolume(members, corner, minimise)
        gains[row], volume = grown - volume, grown
    return np.cumsum(gains)


class _Staircase:
    """A front of two minimised objectives, along which x rises and y falls."""

    def __init__(self, right: float, top: float) -> None:
        self.right, self.top = right, top
        self.x: list[float] = []
        self.y: list[float] = []

    def add(self, x: float, y: float) -> float:
        """Add a point and return the area that only it dominates; 0 if it is dominated."""
        start = bisect_left(self.x, x)
        top = self.y[start - 1] if start else self.top
        if top <= y or (start < len(self.x) and self.x[start] == x and self.y[start] <= y):
            return 0.0
        area, left, stop = 0.0, x, start
        while stop < len(self.x) and self.y[stop] >= y:
            area += (self.x[stop] - left) * (top - y)
            left, top = self.x[stop], self.y[stop]
            stop += 1
        area += ((self.x[stop] if stop < len(self.x) else self.right) - left) * (top - y)
        self.x[start:stop], self.y[start:stop] = [x], [y]
        return area


def _corner(corner: Sequence[float] | Floats, directions: Sequence[str]) -> Floats:
    row = np.asarray(corner, dtype=np.float64)
    if row.shape != (len(directions),) or not np.isfinite(row).all():
        raise ValueError(f"corner {row.tolist()} needs {len(directions)} finite values, one for each objective")
    return as_costs(row[None, :], directions).ravel()
