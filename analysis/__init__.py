"""Reads the results table of a sweep: fronts, hypervolume, plots, exports and the report. Reads tables, not code."""

from analysis.export import Exported, export, export_front, export_images
from analysis.front import CloseNeighbours, close_neighbours, front_frame, front_of, non_dominated, within_noise
from analysis.hypervolume import history, hypervolume, normalised
from analysis.plots import fronts, hypervolume_history, pareto
from analysis.recommend import Answer, recommend
from analysis.report import Report
from analysis.table import StudyTable, TableError, load, save

__all__ = [
    "Answer",
    "CloseNeighbours",
    "Exported",
    "Report",
    "StudyTable",
    "TableError",
    "close_neighbours",
    "export",
    "export_front",
    "export_images",
    "front_frame",
    "front_of",
    "fronts",
    "history",
    "hypervolume",
    "hypervolume_history",
    "load",
    "non_dominated",
    "normalised",
    "pareto",
    "recommend",
    "save",
    "within_noise",
]
