"""Rows of `benchmarks.any_model`: models, data and tasks as people bring them, all written here."""

from benchmarks.any_model_rows import forms, language, modules, quantities, refused, targets, tasks, vision
from benchmarks.any_model_rows.row import Row

ROWS: dict[str, Row] = {
    row.name: row
    for module in (forms, targets, tasks, quantities, language, vision, modules, refused)
    for row in module.ROWS
}
