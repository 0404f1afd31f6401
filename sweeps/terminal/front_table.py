"""The front as a table in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.table import StudyTable
from analysis.uncertainty import COLUMN
from analysis.wording import head, plural
from kmr.core import Reading
from sweeps.views.publish import Published
from sweeps.views.state import State


def print_front(console: Console, published: Published, state: State) -> None:
    """Print the front, and a warning if no member satisfies the study's limits."""
    card, points = state.card, state.points
    console.print(front_table(state, published.table, published.front))
    for warning in state.warnings:
        console.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if card.config.limits and not any(card.within_limits(points[name]) for name in published.front):
        limits = ", ".join(f"{name} {limit:g}" for name, limit in card.config.limits.items())
        console.print(f"no model on the front is within the limits: {limits}", style="yellow", highlight=False)


def front_table(state: State, table: StudyTable, members: Sequence[str]) -> Table:
    """Build the front's table: sequences, costs, and validation and held-out qualities with standard errors.

    The last column is the probability that no other model is better in all objectives.
    """
    card, points = state.card, state.points
    qualities = [meter.name for meter in card.qualities]
    shown = Table(title=f"Front of {card.config.name}: {plural(len(members), 'point')}", title_justify="left")
    shown.add_column("point")
    shown.add_column("sequence", overflow="fold")
    for meter in card.objectives:
        read_on = " (validation)" if meter.name in qualities else f" [{meter.unit}]"
        shown.add_column(head(meter.name + read_on, meter.kind, meter.direction), justify="right")
    tests = [meter.name for meter in card.objectives if meter.name in qualities] or qualities[:1]
    for name in tests:
        shown.add_column(f"{name} (held-out test)", justify="right", style="bold")
    shown.add_column("P(front)", justify="right")
    chances = dict(zip(table.frame["point"], table.column(COLUMN), strict=True))
    first = card.objectives[0]
    for name in sorted(members, key=lambda name: points[name].readings[first.name][0] or 0.0):
        point = points[name]
        cells: list[Any] = [name, Text(str(point.moves))]
        cells += [_number(*point.readings[meter.name]) for meter in card.objectives]
        cells += [_tested(state.tested.get(name, {}).get(quality)) for quality in tests]
        cells.append(f"{chances.get(name, float('nan')):.2f}")
        shown.add_row(*cells)
    return shown


def _tested(reading: Reading | None) -> str:
    return "not measured" if reading is None else _number(reading.value, reading.stderr)


def _number(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "–"
    if stderr is not None:
        return f"{value:.4f} ± {stderr:.4f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
