"""Rows of `benchmarks.any_model`: models, data and tasks as people bring them, all written here."""

from benchmarks.any_model_rows import forms
from benchmarks.any_model_rows.row import Row

ROWS: dict[str, Row] = {row.name: row for module in (forms,) for row in module.ROWS}
