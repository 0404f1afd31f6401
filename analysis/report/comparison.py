"""Comparison page of several run folders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.atomic import write_bytes
from analysis.comparison import FEWEST_RUNS, Groups, Interval, check, group_by_config, pairwise, standings
from analysis.plots.comparison import attainment_surfaces, growth, hypervolume_intervals
from analysis.plots.traces import is_policy, traces
from analysis.report.document import Report, embed_figure, render
from analysis.table import StudyTable, TableError, load
from analysis.wording import NOTHING, listing


@dataclass(frozen=True)
class GroupRow:
    """A row of the page's first table, as text; with `too_few` runs there is no interval."""

    label: str
    runs: int
    too_few: bool
    studies: str
    cells: tuple[tuple[str, float | str], ...]


def read_groups(folders: Sequence[str | Path]) -> dict[str, list[StudyTable]]:
    """Read run folders, each a path or `label=path`, into groups.

    Folders with the same label are a group. Those without a label are grouped if their configs differ only by seed.
    Raises TableError if a folder cannot be read or a label is empty.
    """
    labelled: dict[str, list[StudyTable]] = {}
    plain = []
    for folder in map(str, folders):
        label, sign, path = folder.partition("=")
        if not sign or Path(folder).exists():
            plain.append(load(folder))
        elif not label or not path:
            raise TableError(f"not a run folder or label=folder: {folder}; write runs/<study> or label=runs/<study>")
        else:
            labelled.setdefault(label, []).append(load(path))
    for label, tables in group_by_config(plain).items():
        labelled.setdefault(label, []).extend(tables)
    return labelled


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Report:
    """Write `comparison.html` and `comparison.csv` into `out`.

    Raises TableError if a folder cannot be read or the objectives differ, and OSError if a file cannot be written.
    """
    groups = read_groups(folders)
    first = check(groups)
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    drawn = {
        "attainment": attainment_surfaces(groups),
        "volumes": hypervolume_intervals(groups),
        "growth": growth(groups),
    }
    if any(is_policy(table) for runs in groups.values() for table in runs):
        drawn["traces"] = traces(groups)
    html = render(
        "comparison",
        objectives=listing(first.objectives),
        title=listing(list(groups)),
        rows=_rows(groups),
        coverage=_matrix(pairwise(groups, "coverage")),
        epsilon=_matrix(pairwise(groups, "epsilon")),
        figures={name: embed_figure(figure) for name, figure in drawn.items()},
    )
    page = write_bytes(target / "comparison.html", html.encode("utf-8"))
    numbers = write_bytes(target / "comparison.csv", _numbers(groups).to_csv(index=False).encode())
    return Report(page, (numbers,), ())


def _rows(groups: Groups) -> list[GroupRow]:
    return [
        GroupRow(
            entry.label,
            len(groups[entry.label]),
            len(groups[entry.label]) < FEWEST_RUNS,
            ", ".join(str(table.folder) for table in groups[entry.label]),
            tuple(_write_interval(value) for value in (entry.hypervolume, entry.igd_plus, entry.r2, entry.front)),
        )
        for entry in standings(groups)
    ]


def _write_interval(value: Interval) -> tuple[str, float | str]:
    if not math.isfinite(value.mean):
        return NOTHING, ""
    if not math.isfinite(value.low):
        return f"{value.mean:.4g}", value.mean
    return f"{value.mean:.4g} [{value.low:.4g}, {value.high:.4g}]", value.mean


def _matrix(frame: pd.DataFrame) -> list[tuple[str, list[str]]]:
    return [
        (str(label), [NOTHING if math.isnan(value) else f"{value:.3f}" for value in row])
        for label, row in zip(frame.index, frame.to_numpy(), strict=True)
    ]


def _numbers(groups: Groups) -> pd.DataFrame:
    rows = []
    for entry in standings(groups):
        row: dict[str, object] = {"group": entry.label, "runs": len(groups[entry.label])}
        for name in ("hypervolume", "igd_plus", "r2", "front"):
            value: Interval = getattr(entry, name)
            row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        rows.append(row)
    return pd.DataFrame(rows)
