"""Figures of a study: each function takes tables and returns a plotly figure.

In a notebook, `analysis.from_frame` makes a table from any DataFrame.
"""

from analysis.plots.contribution import technique_contribution
from analysis.plots.fronts import fronts
from analysis.plots.importance import knob_importance
from analysis.plots.parallel import parallel
from analysis.plots.pareto import pareto
from analysis.plots.progress import Progress, hypervolume_history, progress

__all__ = [
    "Progress",
    "fronts",
    "hypervolume_history",
    "knob_importance",
    "parallel",
    "pareto",
    "progress",
    "technique_contribution",
]
