"""Probability that a point is non-dominated when its readings are estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.pareto.dominance import BoolArray, Floats, as_costs, finite_rows, non_dominated

Indices = np.ndarray[Any, np.dtype[np.intp]]


_FAR = 5.0
"""Standard errors beyond which an order counts as certain; the error probability is below 1e-6."""


def probability_non_dominated(
    values: Floats,
    stderrs: Floats,
    directions: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
    replicates: Floats | None = None,
) -> Floats:
    """Estimate for each row of (n, d) `values` the probability that no other row dominates it, as (n,) floats.

    Monte Carlo with a fixed seed. A draw takes one of the `replicates` (b, n, d) for all rows together, so that models
    keep the noise they share (the samples of one bootstrap). A row without replicates, in a column where others have
    them, moves by the mean change of those rows. In a column without replicates, a value is drawn from a normal
    distribution around its reading, independently of all others. Independence overstates the noise of a difference
    between models that were read on the same samples, which pulls these probabilities towards the middle.

    Args:
        values: readings; a row with a value that is not finite gets NaN.
        stderrs: their standard errors, (n, d); an unknown one counts as zero.
        directions: d entries `minimize` or `maximize`.
        draws: the number of draws; the standard error of the estimate is at most 1 / (2 √draws).
        seed: the seed of the draws.
        replicates: repeated readings of all rows at once, NaN where there are none.

    Raises ValueError if shapes or directions do not fit, a standard error is negative, or `draws` is below 1.
    """
    costs = as_costs(values, directions)
    errors = np.nan_to_num(np.asarray(stderrs, dtype=np.float64), posinf=0.0)
    if errors.shape != costs.shape:
        raise ValueError(f"standard errors of shape {errors.shape} do not fit values of shape {costs.shape}")
    if (errors < 0).any() or draws < 1:
        raise ValueError(f"standard errors must be at least 0, and draws ({draws}) at least 1")
    repeated = _as_costs(replicates, costs.shape, directions)
    found = np.where(finite_rows(costs), 0.0, np.nan)
    rows = np.flatnonzero(_has_a_chance(costs, errors, repeated))
    if not len(rows):
        return found
    random = np.random.default_rng(seed)
    counts = np.zeros(len(rows))
    winners = _winners(costs[rows], errors[rows], None if repeated is None else repeated[:, rows])
    for draw in range(draws):
        drawn = random.normal(costs[rows], errors[rows])
        if repeated is not None:
            once = repeated[draw % len(repeated)][rows]
            missing = np.isnan(once)
            shift = np.where(missing, 0.0, once - costs[rows]).sum(axis=0) / np.maximum((~missing).sum(axis=0), 1)
            shared = np.where(missing.all(axis=0), drawn, costs[rows] + shift)
            drawn = np.where(missing, shared, once)
        counts[winners(drawn)] += 1
    found[rows] = counts / draws
    return found


def _as_costs(replicates: Floats | None, shape: tuple[int, ...], directions: Sequence[str]) -> Floats | None:
    if replicates is None or not len(replicates):
        return None
    replicates = np.asarray(replicates, dtype=np.float64)
    if replicates.shape[1:] != shape:
        raise ValueError(f"replicates of shape {replicates.shape} do not fit values of shape {shape}")
    return as_costs(replicates.reshape(-1, shape[1]), directions).reshape(replicates.shape)


def _has_a_chance(costs: Floats, errors: Floats, replicates: Floats | None) -> BoolArray:
    """Mark the rows that are not certainly dominated: no other row's worst values dominate their best values."""
    finite = finite_rows(costs)
    best, worst = costs - _FAR * errors, costs + _FAR * errors
    if replicates is not None:
        best = np.fmin(best, np.fmin.reduce(replicates))
        worst = np.fmax(worst, np.fmax.reduce(replicates))
    chance = np.array(finite)
    rows = np.flatnonzero(finite)
    corners = worst[rows][non_dominated(worst[rows], ["minimize"] * costs.shape[1])] if len(rows) else worst[:0]
    for row in rows:
        beaten = (corners <= best[row]).all(axis=1) & (corners < best[row]).any(axis=1)
        chance[row] = not beaten.any()
    return chance


def _winners(costs: Floats, errors: Floats, replicates: Floats | None) -> Callable[[Floats], Indices]:
    """Return a function that finds the non-dominated rows of a draw; an exact column of two is sorted only once."""
    noisy = errors.any(axis=0)
    if replicates is not None:
        noisy |= ~np.isnan(replicates).all(axis=(0, 1))
    if costs.shape[1] != 2 or noisy.all():
        down = ["minimize"] * costs.shape[1]
        return lambda drawn: np.flatnonzero(non_dominated(drawn, down))
    exact = int(np.argmin(noisy))
    order = np.argsort(costs[:, exact], kind="stable")
    values, starts, group = np.unique(costs[order, exact], return_index=True, return_inverse=True)

    def winners(drawn: Floats) -> Indices:
        other = drawn[order, 1 - exact]
        best = np.minimum.reduceat(other, starts)
        before = np.concatenate(([np.inf], np.minimum.accumulate(best)[: len(values) - 1]))
        ahead = np.flatnonzero((other == best[group]) & (best < before)[group])
        # Of equal rows only the first counts.
        return np.asarray(order[ahead[np.unique(group[ahead], return_index=True)[1]]])

    return winners
