"""Hover text of points."""

from __future__ import annotations

import math

import pandas as pd

from analysis.plots.style import escape
from analysis.table import StudyTable
from analysis.wording import quantity, sequence


def text_or(value: object, default: str = "") -> str:
    """Return the text of a cell, or the default if it is empty."""
    return value if isinstance(value, str) and value else default


def hover(table: StudyTable, rows: pd.DataFrame, test: bool = False) -> list[str]:
    """Write point, technique, sequence, all readings and the MLflow run of every row, in plotly's markup."""
    part = StudyTable(rows, table.meta, table.folder)
    kinds = ("test", "test_stderr") if test else ("meter", "stderr")
    columns = {
        meter: (part.column(f"{kinds[0]}/{meter}"), part.column(f"{kinds[1]}/{meter}")) for meter in table.meters
    }
    texts = []
    for index, (point, technique, moves, run) in enumerate(
        zip(rows["point"], rows["technique"], rows["sequence"], rows["mlflow_run_id"], strict=True)
    ):
        lines = [f"<b>{escape(point)}</b> {escape(text_or(technique))}{' · held-out test' if test else ''}"]
        lines += _wrap(sequence(moves))
        for meter, (values, stderrs) in columns.items():
            if math.isfinite(values[index]):
                shown = quantity(values[index], table.unit(meter), stderrs[index])
                lines.append(f"{escape(meter)}: {escape(shown)}")
        if text_or(run):
            lines.append(f"MLflow run {escape(run)}")
        texts.append("<br>".join(lines))
    return texts


def _wrap(text: str, width: int = 60) -> list[str]:
    """Break before an arrow where a line would be too long; escape every piece."""
    lines, line = [], ""
    for piece in text.split(" → "):
        joined = f"{line} → {piece}" if line else piece
        if line and len(joined) > width:
            lines.append(line)
            line = f"→ {piece}"
        else:
            line = joined
    return [escape(shown) for shown in (*lines, line)]
