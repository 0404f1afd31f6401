"""Quality indicators of fronts beside the hypervolume: coverage, ε, IGD+ and R2.

All take values in the objectives' own units and directions. With `ideal` and `reference` every objective is divided by
the span between them, so that distances in different objectives can be added.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from analysis.pareto.dominance import Floats, as_costs, finite_rows


def coverage(first: Floats, second: Floats, directions: Sequence[str]) -> float:
    """Return the share of the rows of `second` that a row of `first` weakly dominates, in [0, 1].

    This is C(A, B) of Zitzler and Thiele 1999, which is not symmetric. Raises ValueError if `second` has no finite row.
    """
    ours, theirs = _finite(first, directions), _finite(second, directions)
    _check_rows(theirs, "second")
    if not len(ours):
        return 0.0
    return float(np.mean([bool((ours <= row).all(axis=1).any()) for row in theirs]))


def epsilon(
    first: Floats,
    second: Floats,
    directions: Sequence[str],
    ideal: Sequence[float] | Floats | None = None,
    reference: Sequence[float] | Floats | None = None,
) -> float:
    """Return by how much `first` must be improved in every objective at once to cover `second`.

    This is the additive ε-indicator of Zitzler et al. 2003; ≤ 0 if `first` covers `second`. In spans between `ideal`
    and `reference` where these are given. Raises ValueError if either has no finite row.
    """
    ours, theirs = (_scale(_finite(v, directions), directions, ideal, reference) for v in (first, second))
    _check_rows(ours, "first")
    _check_rows(theirs, "second")
    return float(max((ours - row).max(axis=1).min() for row in theirs))


def igd_plus(
    values: Floats,
    target: Floats,
    directions: Sequence[str],
    ideal: Sequence[float] | Floats | None = None,
    reference: Sequence[float] | Floats | None = None,
) -> float:
    """Return the mean distance by which `values` fall short of the rows of `target`.

    This is IGD+ of Ishibuchi et al. 2015, Euclidean, ≥ 0, weakly Pareto compliant. In spans between `ideal` and
    `reference` where these are given. Raises ValueError if either has no finite row.
    """
    ours, wanted = (_scale(_finite(v, directions), directions, ideal, reference) for v in (values, target))
    _check_rows(ours, "values")
    _check_rows(wanted, "target")
    return float(np.mean([np.sqrt((np.maximum(ours - row, 0.0) ** 2).sum(axis=1)).min() for row in wanted]))


def r2(
    values: Floats,
    directions: Sequence[str],
    ideal: Sequence[float] | Floats,
    reference: Sequence[float] | Floats | None = None,
    divisions: int = 100,
) -> float:
    """Return the mean over preferences of the weighted Chebyshev distance from `ideal` to the best row, ≥ 0.

    This is the unary R2 indicator of Brockhoff, Wagner and Trautmann 2012; smaller is better. Weights are evenly spread
    (`divisions` steps along every edge for two objectives, fewer for more). Raises ValueError without a finite row.
    """
    ours = _scale(_finite(values, directions), directions, ideal, reference)
    _check_rows(ours, "values")
    best = _scale(
        as_costs(np.atleast_2d(np.asarray(ideal, dtype=np.float64)), directions), directions, ideal, reference
    )
    distances = np.maximum(ours - best, 0.0)
    weights = _weights(len(directions), divisions)
    return float(np.mean([(distances * weight).max(axis=1).min() for weight in weights]))


def _weights(objectives: int, divisions: int) -> Floats:
    """Return all weights of `divisions` equal steps that add up to one (Das and Dennis 1998), at most about 5,000."""
    if objectives == 1:
        return np.ones((1, 1))
    while objectives > 2 and divisions > 3 and _count(objectives, divisions) > 5000:
        divisions -= 1
    bars = np.array(list(combinations(range(divisions + objectives - 1), objectives - 1)))
    edges = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), divisions + objectives - 1)])
    return np.asarray((np.diff(edges, axis=1) - 1) / divisions, dtype=np.float64)


def _count(objectives: int, divisions: int) -> int:
    count = 1
    for index in range(1, objectives):
        count = count * (divisions + index) // index
    return count


def _finite(values: Floats, directions: Sequence[str]) -> Floats:
    costs = as_costs(values, directions)
    return costs[finite_rows(costs)]


def _scale(
    costs: Floats,
    directions: Sequence[str],
    ideal: Sequence[float] | Floats | None,
    reference: Sequence[float] | Floats | None,
) -> Floats:
    if ideal is None or reference is None:
        return costs
    corners = as_costs(np.array([ideal, reference], dtype=np.float64), directions)
    span = corners[1] - corners[0]
    if not (np.isfinite(span).all() and (span > 0).all()):
        raise ValueError(f"ideal {list(ideal)} is not better than reference {list(reference)} in every objective")
    return np.asarray(costs / span, dtype=np.float64)


def _check_rows(costs: Floats, name: str) -> None:
    if not len(costs):
        raise ValueError(f"no row of finite values in {name}; there is nothing to compare")
