"""Comparison of studies with the same objectives, in groups of runs that differ only by seed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.front import front_frame
from analysis.pareto.dominance import Floats, as_costs, non_dominated
from analysis.pareto.hypervolume import box, hypervolume
from analysis.pareto.indicators import coverage, epsilon, igd_plus, r2
from analysis.table import StudyTable, TableError

Groups = Mapping[str, Sequence[StudyTable]]

_OF_A_RUN = ("seed", "name", "output_dir", "storage", "tracking", "report", "cache", "trials", "threads", "hydra")


FEWEST_RUNS = 3
"""The fewest runs with an interval: with two, Student's t would give ± 13 standard errors."""


class Interval(NamedTuple):
    """Mean over runs, and the 95 % confidence interval of the mean; the ends are NaN below `FEWEST_RUNS` runs."""

    mean: float
    low: float
    high: float
    runs: int


class Standing(NamedTuple):
    """Indicators of a group of runs: hypervolume, R2, and IGD+ to the front of all runs together.

    A larger hypervolume is better, and a smaller R2 and IGD+. `volumes` are the hypervolumes of the single runs.
    """

    label: str
    front: Interval
    hypervolume: Interval
    igd_plus: Interval
    r2: Interval
    volumes: tuple[float, ...] = ()


def group_by_config(tables: Sequence[StudyTable]) -> dict[str, list[StudyTable]]:
    """Group the runs whose configs differ only by seed and folder; a group's name is what the runs' names share."""
    groups: dict[str, list[StudyTable]] = {}
    for index, table in enumerate(tables):
        config = table.meta.get("config") or {}
        kept = {key: value for key, value in config.items() if key not in _OF_A_RUN}
        key = json.dumps([kept, table.meta["objectives"]], sort_keys=True, default=str) if kept else str(index)
        groups.setdefault(key, []).append(table)
    named: dict[str, list[StudyTable]] = {}
    for runs in groups.values():
        label = name = _shared_name([table.study for table in runs])
        count = 2
        while label in named:
            label, count = f"{name} ({count})", count + 1
        named[label] = runs
    return named


def _shared_name(names: Sequence[str]) -> str:
    if len(set(names)) == 1:
        return names[0]
    start = names[0]
    for name in names[1:]:
        length = next(
            (i for i, (a, b) in enumerate(zip(start, name, strict=False)) if a != b), min(len(start), len(name))
        )
        start = start[:length]
    shared = re.sub(r"[-_.\s]*(seed|s)?[-_.=]*\d*$", "", start, flags=re.IGNORECASE)
    return shared or (", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}")


def check(groups: Groups) -> StudyTable:
    """Return the first table; raise TableError where another has other objectives."""
    tables = [table for runs in groups.values() for table in runs]
    if not tables:
        raise TableError("no run to compare; name at least one run folder")
    first = tables[0]
    for table in tables:
        if (table.objectives, table.directions) != (first.objectives, first.directions):
            raise TableError(
                f"studies of different objectives: {table.folder} optimises {', '.join(table.objectives)}, not "
                f"{', '.join(first.objectives)} as {first.folder} does; compare studies of the same objectives"
            )
    return first


def corners(groups: Groups) -> tuple[Floats, Floats]:
    """Return the studies' worst reference point and best ideal; NaN where a study states none."""
    first = check(groups)
    tables = [table for runs in groups.values() for table in runs]

    def chosen(name: str, worst: bool) -> Floats:
        costs = as_costs(np.array([table.corner(name) for table in tables]), first.directions)
        picked = costs.max(axis=0) if worst else costs.min(axis=0)
        return as_costs(picked[None, :], first.directions).ravel()

    return chosen("reference", worst=True), chosen("ideal", worst=False)


def complete_values(table: StudyTable) -> Floats:
    """Return the objectives of the complete models that have them all, (n, d)."""
    values = table.values(table.objectives)[table.complete.to_numpy(dtype=np.bool_)]
    return values[np.isfinite(values).all(axis=1)]


def front_values(table: StudyTable) -> Floats:
    """Return the objectives of the front's members, (m, d)."""
    return StudyTable(front_frame(table), table.meta, table.folder).values(table.objectives)


def interval(
    values: Sequence[float], confidence: float = 0.95, *, least: float = -math.inf, most: float = math.inf
) -> Interval:
    """Return the mean of independent values and the confidence interval of the mean (Student's t).

    The interval is cut to the possible values, [`least`, `most`]. The mean never lies outside, so the coverage stays.
    """
    known = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(known.mean())
    if len(known) < FEWEST_RUNS:
        return Interval(mean, float("nan"), float("nan"), len(known))
    from scipy import stats

    half = float(stats.t.ppf(0.5 + confidence / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return Interval(mean, max(mean - half, least), min(mean + half, most), len(known))


def standings(groups: Groups) -> tuple[Standing, ...]:
    """Measure every group, the largest mean hypervolume first; raise TableError where objectives differ."""
    first = check(groups)
    reference, ideal = corners(groups)
    spans = np.isfinite(reference).all() and np.isfinite(ideal).all()
    share = box(reference, ideal, first.directions) if spans else 1.0
    fronts = {label: [front_values(table) for table in runs] for label, runs in groups.items()}
    everything = np.concatenate([front for runs in fronts.values() for front in runs])
    best = everything[non_dominated(everything, first.directions)]
    scale: dict[str, Any] = {"ideal": ideal, "reference": reference} if spans else {}
    nothing = float("nan")
    found = []
    for label, runs in fronts.items():
        volumes = [
            hypervolume(front, reference, first.directions) / share if np.isfinite(reference).all() else nothing
            for front in runs
        ]
        distances = [igd_plus(front, best, first.directions, **scale) if len(front) else nothing for front in runs]
        falls = [r2(front, first.directions, **scale) if spans and len(front) else nothing for front in runs]
        sizes = interval([float(len(front)) for front in runs], least=0.0)
        volume = interval(volumes, least=0.0, most=1.0 if spans else math.inf)
        distance, fall = interval(distances, least=0.0), interval(falls, least=0.0)
        found.append(Standing(label, sizes, volume, distance, fall, tuple(volumes)))
    return tuple(sorted(found, key=lambda entry: -np.nan_to_num(entry.hypervolume.mean, nan=-1.0)))


def pairwise(groups: Groups, kind: str) -> pd.DataFrame:
    """Return `coverage` or `epsilon` of every group (row) over every other (column), the mean over pairs of runs.

    Epsilon is in spans between the shared corners where the studies state them. NaN on the diagonal and where a front
    is empty. Raises ValueError for another kind.
    """
    if kind not in ("coverage", "epsilon"):
        raise ValueError(f"kind must be coverage or epsilon, not {kind!r}")
    first = check(groups)
    reference, ideal = corners(groups)
    spans = bool(np.isfinite(reference).all() and np.isfinite(ideal).all())
    scale: dict[str, Any] = {"ideal": ideal, "reference": reference} if spans else {}
    fronts = {label: [front_values(table) for table in runs] for label, runs in groups.items()}

    def one(ours: Floats, theirs: Floats) -> float:
        if not len(ours) or not len(theirs):
            return float("nan")
        return (
            coverage(ours, theirs, first.directions)
            if kind == "coverage"
            else epsilon(ours, theirs, first.directions, **scale)
        )

    def mean(ours: Sequence[Floats], theirs: Sequence[Floats]) -> float:
        values = [one(a, b) for a in ours for b in theirs]
        known = [value for value in values if np.isfinite(value)]
        return float(np.mean(known)) if known else float("nan")

    rows = {a: {b: float("nan") if a == b else mean(fronts[a], fronts[b]) for b in fronts} for a in fronts}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(fronts))
