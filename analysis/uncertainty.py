"""Uncertainty of a front: the probability that a point is non-dominated, since its readings are estimates."""

from __future__ import annotations

import numpy as np

from analysis.pareto.dominance import Floats
from analysis.pareto.probability import probability_non_dominated
from analysis.table import StudyTable

COLUMN = "p_front"
"""The column of the results table with the probability, empty for rows without a model."""


def front_probability(table: StudyTable, replicates: Floats | None = None) -> Floats:
    """Return the probability that each row is on the front of the complete points, as (n,) floats.

    `replicates` is (b, rows, objectives). Rows that are not complete get NaN.
    """
    values = table.values(table.objectives)
    values[~table.complete.to_numpy(dtype=np.bool_)] = np.nan
    stderrs = np.column_stack([table.column(f"stderr/{name}") for name in table.objectives]).reshape(values.shape)
    return probability_non_dominated(values, stderrs, table.directions, replicates=replicates)
