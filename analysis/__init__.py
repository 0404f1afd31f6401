"""Analysis of a sweep's results table: fronts, hypervolume, plots, exports and the report."""

from analysis.comparison import group_by_config, pairwise, standings
from analysis.contribution import contributions
from analysis.exporting.export import Exported, export, export_front, export_images
from analysis.exporting.latex import latex_table
from analysis.front import CloseNeighbours, close_neighbours, front_frame, front_of
from analysis.importance import importance, importance_for_front
from analysis.pareto.attainment import attainment
from analysis.pareto.dominance import non_dominated, ranks, within_noise
from analysis.pareto.hypervolume import history, hypervolume, hypervolume_share
from analysis.pareto.indicators import coverage, epsilon, igd_plus, r2
from analysis.plots import (
    fronts,
    hypervolume_history,
    knob_importance,
    parallel,
    pareto,
    technique_contribution,
)
from analysis.plots.comparison import attainment_surfaces, hypervolume_intervals
from analysis.report import Report, write_comparison
from analysis.selection.standing_answers import Answer, recommend
from analysis.table import StudyTable, TableError, from_frame, load, save

__all__ = [
    "Answer",
    "CloseNeighbours",
    "Exported",
    "Report",
    "StudyTable",
    "TableError",
    "attainment",
    "attainment_surfaces",
    "close_neighbours",
    "contributions",
    "coverage",
    "epsilon",
    "export",
    "export_front",
    "export_images",
    "from_frame",
    "front_frame",
    "front_of",
    "fronts",
    "group_by_config",
    "history",
    "hypervolume",
    "hypervolume_history",
    "hypervolume_intervals",
    "hypervolume_share",
    "igd_plus",
    "importance",
    "importance_for_front",
    "knob_importance",
    "latex_table",
    "load",
    "non_dominated",
    "pairwise",
    "parallel",
    "pareto",
    "r2",
    "ranks",
    "recommend",
    "save",
    "standings",
    "technique_contribution",
    "within_noise",
    "write_comparison",
]
