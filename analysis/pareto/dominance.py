"""Pareto dominance on arrays: non-dominated rows, ranks, and orders within the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import moocore
import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Ranks = np.ndarray[Any, np.dtype[np.intp]]


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


def non_dominated(values: Floats, directions: Sequence[str]) -> BoolArray:
    """Mark the rows of (n, d) `values` that no other row dominates, as (n,) bools.

    Row a dominates row b if it is at least as good in every objective and better in one. Rows with a value that is not
    finite are never marked. Of equal rows only the first is marked. Raises ValueError if shapes or directions do not
    fit.
    """
    costs = as_costs(values, directions)
    marked = finite_rows(costs)
    marked[marked] = moocore.is_nondominated(costs[marked])
    return marked


def ranks(values: Floats, directions: Sequence[str]) -> Ranks:
    """Return the non-domination rank of every row of (n, d) `values` as (n,) integers, 0 on the front.

    Rank 1 is the front without the rows of rank 0, and so on (Goldberg 1989). Equal rows share a rank; a row with a
    value that is not finite has rank -1. Raises ValueError if shapes or directions do not fit.
    """
    costs = as_costs(values, directions)
    finite = finite_rows(costs)
    found = np.full(len(costs), -1, dtype=np.intp)
    found[finite] = moocore.pareto_rank(costs[finite])
    return found


def finite_rows(costs: Floats) -> BoolArray:
    """Mark the rows of (n, d) `costs` without NaN or infinity, as (n,) bools."""
    return np.asarray(np.isfinite(costs).all(axis=1), dtype=np.bool_)


def within_noise(values: Floats, stderrs: Floats) -> BoolArray:
    """Mark neighbours whose values differ by less than the standard error of their difference.

    `values` and `stderrs` are (m,), in the order of the front. Entry i of the (m - 1,) result compares rows i and
    i + 1: |Δ| < sqrt(se_i² + se_{i+1}²), with independent measurements. An unknown standard error counts as zero.
    """
    values = np.asarray(values, dtype=np.float64)
    variances = np.nan_to_num(np.asarray(stderrs, dtype=np.float64)) ** 2
    return np.asarray(np.abs(np.diff(values)) < np.sqrt(variances[:-1] + variances[1:]), dtype=np.bool_)
