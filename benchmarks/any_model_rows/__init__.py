"""Rows of `benchmarks.any_model`: models, data and tasks as people bring them, all written here."""

from benchmarks.any_model_rows import (
    forms,
    huggingface,
    language,
    modules,
    quantities,
    refused,
    targets,
    tasks,
    vision,
)
from benchmarks.any_model_rows.row import Row

_MODULES = (forms, targets, tasks, quantities, language, vision, modules, refused, huggingface)
ROWS: dict[str, Row] = {row.name: row for module in _MODULES for row in module.ROWS}
