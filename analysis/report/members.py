"""Tables of the front's members as plain values: the main columns, and further ones that a click shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from analysis import renamed_meters
from analysis.pareto.dominance import Floats
from analysis.table import StudyTable
from analysis.uncertainty import COLUMN
from analysis.wording import NOTHING, head, quantity, sequence

FAITHFULNESS = (
    "agreement", "kl", "chi_squared_p", "ece", "worst_class_accuracy", "accuracy_degradation_factor",
)  # fmt: skip
"""Meters that compare a model's behaviour with the original's."""


class Cell(NamedTuple):
    """A value as text and, for sorting, as a number; empty if unknown."""

    text: str
    number: float | str


class Column(NamedTuple):
    """A column: its name, the heading above it, whether it has test values, and whether only a click shows it."""

    name: str
    group: str
    is_test: bool
    is_more: bool


class Span(NamedTuple):
    """Neighbouring columns under one heading."""

    title: str
    size: int
    is_test: bool
    is_more: bool


@dataclass(frozen=True)
class Member:
    """A row, with `cells` in the order of the table's columns."""

    point: str
    technique: str
    sequence: str
    cells: tuple[Cell, ...]
    artifact: str
    run: str


@dataclass(frozen=True)
class Members:
    """A table of the front's members, the baseline first; with `places`, a click shows where each model is stored."""

    columns: tuple[Column, ...]
    rows: tuple[Member, ...]
    baseline: Member | None
    places: bool

    @property
    def spans(self) -> tuple[Span, ...]:
        """The headings above the columns."""
        found = []
        for (title, is_test, is_more), columns in groupby(self.columns, key=lambda c: (c.group, c.is_test, c.is_more)):
            found.append(Span(title, len(list(columns)), is_test, is_more))
        return tuple(found)

    @property
    def more(self) -> int:
        """The number of columns that a click shows."""
        return sum(column.is_more for column in self.columns) + self.places


class _Source(NamedTuple):
    """A column and its source: the meter, and the columns of values and standard errors."""

    column: Column
    meter: str
    value: str
    stderr: str


def members(table: StudyTable, front: StudyTable) -> Members:
    """Collect objectives, P(front) and test values, and all other readings as further columns."""
    names = [name for name in table.meters if not _is_faithfulness(name) or name in table.objectives]
    tested = _tested_meters(front, names)
    first = [name for name in tested if name in table.objectives] or tested[:1]
    title = "Objectives: cost or validation ± standard error"
    shown = [_validation(table, name, title, False) for name in table.objectives]
    if np.isfinite(front.column(COLUMN)).any():
        shown.append(_Source(Column("P(front)", "Given the noise", False, False), "", COLUMN, ""))
    shown += [_test(table, name, "Held-out test", False) for name in first]
    others = [name for name in names if name not in table.objectives and _is_known(front, f"meter/{name}")]
    shown += [_validation(table, name, "Other costs and validation", True) for name in others]
    shown += [_test(table, name, "Other held-out test", True) for name in tested if name not in first]
    return _members(table, front, shown, places=True)


def faithful_members(table: StudyTable, front: StudyTable) -> Members | None:
    """Collect the readings of faithfulness to the original; None if there are none."""
    names = [name for name in table.meters if _is_faithfulness(name) and name not in table.objectives]
    names = [name for name in names if _is_known(front, f"meter/{name}") or _is_known(front, f"test/{name}")]
    if not names:
        return None
    tested = _tested_meters(front, names)
    shown = [_test(table, name, "Held-out test", False) for name in tested]
    shown += [_validation(table, name, "Validation", bool(tested)) for name in names]
    return _members(table, front, shown, places=False)


def _is_faithfulness(meter: str) -> bool:
    return renamed_meters.RENAMED.get(meter, meter) in FAITHFULNESS


def _validation(table: StudyTable, meter: str, group: str, is_more: bool) -> _Source:
    return _Source(Column(_head(table, meter), group, False, is_more), meter, f"meter/{meter}", f"stderr/{meter}")


def _test(table: StudyTable, meter: str, group: str, is_more: bool) -> _Source:
    return _Source(Column(_head(table, meter), group, True, is_more), meter, f"test/{meter}", f"test_stderr/{meter}")


def _head(table: StudyTable, meter: str) -> str:
    return head(meter, table.kind(meter), table.direction(meter))


def _is_known(front: StudyTable, column: str) -> bool:
    return bool(np.isfinite(front.column(column)).any())


def _tested_meters(front: StudyTable, names: Sequence[str]) -> list[str]:
    return [name for name in names if _is_known(front, f"test/{name}")]


def _members(table: StudyTable, front: StudyTable, shown: Sequence[_Source], *, places: bool) -> Members:
    columns = [list(_cells(front, source)) for source in shown]
    rows = tuple(
        Member(
            point=str(row["point"]),
            technique=_text(row["technique"]),
            sequence=sequence(row["sequence"]),
            cells=tuple(column[index] for column in columns),
            artifact=_text(row["artifact"]),
            run=_text(row["mlflow_run_id"]),
        )
        for index, (_, row) in enumerate(front.frame.iterrows())
    )
    return Members(tuple(source.column for source in shown), rows, _baseline(table, shown), places)


def _cells(front: StudyTable, source: _Source) -> Iterator[Cell]:
    values: Floats = front.column(source.value)
    if not source.meter:
        return (_chance_cell(float(value)) for value in values)
    unit = front.unit(source.meter)
    return (_cell(float(v), unit, float(e)) for v, e in zip(values, front.column(source.stderr), strict=True))


def _chance_cell(value: float) -> Cell:
    return Cell(f"{value:.2f}", value) if math.isfinite(value) else Cell(NOTHING, "")


def _cell(value: float, unit: str, stderr: float) -> Cell:
    return Cell(quantity(value, unit, stderr), value if math.isfinite(value) else "")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _baseline(table: StudyTable, shown: Sequence[_Source]) -> Member | None:
    cells = []
    for source in shown:
        value, stderr = table.baseline(source.meter, test=source.column.is_test)
        cells.append(_cell(value, table.unit(source.meter), stderr) if source.meter else Cell("", ""))
    if all(cell.number == "" for cell in cells):
        return None
    return Member("baseline", "uncompressed", "base model", tuple(cells), "", "")
