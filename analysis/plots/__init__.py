"""Figures of a study: each function takes tables and returns a plotly figure."""

from analysis.plots.fronts import fronts
from analysis.plots.pareto import pareto
from analysis.plots.progress import Progress, hypervolume_history, progress

__all__ = ["Progress", "fronts", "hypervolume_history", "pareto", "progress"]
