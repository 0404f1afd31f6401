"""Attainment surfaces (Fonseca and Fleming 1996) for two objectives: what a given share of the runs reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.pareto.dominance import Floats, as_costs, finite_rows, non_dominated


def attainment(runs: Sequence[Floats], share: float, directions: Sequence[str]) -> Floats:
    """Return the corners of the surface that at least `share` of the runs attain, (m, 2), best first objective first.

    `runs` holds the (n, 2) values of every run. `share` is in (0, 1]: 0.5 gives the median surface, 1 the surface that
    every run attains. The result is empty where too few runs have a point. Raises ValueError for another number of
    objectives, no run, or a share out of range.
    """
    if len(directions) != 2:
        raise ValueError(f"attainment surfaces need two objectives, not {len(directions)}")
    if not runs or not 0 < share <= 1:
        raise ValueError(f"attainment needs at least one run and a share in (0, 1], not {len(runs)} and {share}")
    needed = math.ceil(share * len(runs) - 1e-9)
    costs = [as_costs(values, directions) for values in runs]
    costs = [found[finite_rows(found)] for found in costs]
    at = np.unique(np.concatenate([found[:, 0] for found in costs]))
    reached = np.full((len(runs), len(at)), np.inf)
    for row, found in zip(reached, costs, strict=True):
        if len(found):
            order = np.argsort(found[:, 0], kind="stable")
            best = np.concatenate(([np.inf], np.minimum.accumulate(found[order, 1])))
            row[:] = best[np.searchsorted(found[order, 0], at, side="right")]
    level = np.sort(reached, axis=0)[needed - 1] if len(at) else np.empty(0)
    surface = np.column_stack([at, level])[np.isfinite(level)]
    corners = surface[non_dominated(surface, ["minimize", "minimize"])]
    return as_costs(corners, directions)
