"""Accounting of trials and time: states, causes of failure, warnings, seconds by activity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.front import front_of
from analysis.pareto.dominance import BoolArray
from analysis.table import StudyTable
from analysis.wording import duration, plural

ACTIVITIES = {
    "seconds/rule": "compressing (rules)",
    "seconds/finetune": "fine-tuning",
    "seconds/meter": "measuring (meters)",
    "seconds/other": "cache and other",
}


class Tally(NamedTuple):
    """A text and the points that it is about."""

    text: str
    size: int
    points: tuple[str, ...]


class Spent(NamedTuple):
    """Seconds of an activity and its share of the total, in [0, 1]."""

    activity: str
    seconds: float
    share: float


def mark_models(table: StudyTable) -> BoolArray:
    """Mark the complete rows with a finite value of every objective, the base model included."""
    finite = np.isfinite(table.values(table.objectives)).all(axis=1)
    return np.asarray(table.complete.to_numpy(dtype=np.bool_) & finite, dtype=np.bool_)


def models(table: StudyTable) -> tuple[tuple[str, str], ...]:
    """Count the measured models, the front members, and the rows without a model."""
    counted = mark_models(table)
    with_base = bool((counted & table.uncompressed.to_numpy(dtype=np.bool_)).any())
    found = [("measured" + (", the base model among them" if with_base else ""), int(counted.sum()))]
    found += [("on the front", int(front_of(table).sum()))]
    states = table.frame["state"].astype(str)
    lacking = int((table.complete.to_numpy(dtype=np.bool_) & ~counted).sum())
    found += [("without a finite value of every objective", lacking)] if lacking else []
    ended = states[~table.complete].value_counts()
    found += [(f"ended without a model: {state}", int(count)) for state, count in ended.items()]
    return tuple((words, f"{count:,}") for words, count in found)


_STATES = ("complete", "duplicate", "failed", "infeasible", "early-stopped", "retried")
"""The final states of a trial, as the table and the meta file name them."""
_COUNTED = {
    "finished": "trials finished",
    "cache_hits": "moves recalled from the cache",
    "cache_misses": "moves applied, not in the cache",
    "cache_seconds_saved": "time saved by the cache",
}


def counts(table: StudyTable) -> tuple[tuple[str, str], ...]:
    """List the study's counts of trials by state, and of the cache.

    These are all numbers under `trials` and `cache` in the meta file, except the target. A retried trial is not
    finished, because its vector is queued again as another trial.
    """
    found = []
    for part in ("trials", "cache"):
        entries = table.meta.get(part)
        for name, value in _finished(entries).items() if isinstance(entries, dict) else ():
            key = f"{part}_{name}" if part == "cache" else str(name)
            if name == "target" or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            shown = duration(value) if name == "seconds_saved" else f"{value:,}"
            found.append((_COUNTED.get(key, key.replace("_", " ")), shown))
    return tuple(found)


def headline(table: StudyTable) -> str:
    """Write the counts of trials by state in one line, without those that are 0."""
    trials = _finished(table.meta.get("trials") or {})
    if "finished" not in trials:
        return plural(table.frame["trial"].nunique(), "trial")
    planned = f" of {trials['target']:,} planned" if trials.get("target") else ""
    ends = [f"{trials[name]:,} {name}" for name in _STATES if trials.get(name)]
    return f"{trials['finished']:,}{planned}" + (f": {', '.join(ends)}" if ends else "")


def _finished(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the number of asked trials by that of finished ones."""
    retried = entries.get("retried") or 0
    asked = {"finished": entries["asked"] - retried} if isinstance(entries.get("asked"), int) else {}
    return {**asked, **{name: value for name, value in entries.items() if name != "asked"}}


def failures(table: StudyTable) -> tuple[Tally, ...]:
    """Group the failed and retried points by the first line of their error, the most frequent first."""
    rows = table.frame[table.frame["state"].isin(["failed", "retried"])]
    causes = rows["error"].map(_first_line).where(rows["error"].notna(), "no error recorded")
    return _tallies(causes, rows["point"])


def warnings(table: StudyTable) -> tuple[Tally, ...]:
    """Group the warnings of the rules by line, the most frequent first."""
    notes = table.frame["notes"].map(lambda note: note.splitlines() if isinstance(note, str) else []).explode().dropna()
    notes = notes.map(lambda line: str(line).strip())
    notes = notes[notes != ""]
    return _tallies(notes, table.frame["point"].loc[notes.index])


def time_spent(table: StudyTable) -> tuple[Spent, ...]:
    """Sum the seconds of all points by activity; with parallel workers the sum exceeds the wall time."""
    totals = {words: float(np.nansum(table.column(name))) for name, words in ACTIVITIES.items()}
    whole = sum(totals.values())
    return tuple(Spent(words, seconds, seconds / whole if whole else 0.0) for words, seconds in totals.items())


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no error recorded"


def _tallies(texts: pd.Series[str], points: pd.Series[str]) -> tuple[Tally, ...]:
    counted: dict[str, list[str]] = {}
    for text, point in zip(texts, points, strict=True):
        counted.setdefault(str(text), []).append(str(point))
    ordered = sorted(counted.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Tally(text, len(found), tuple(found)) for text, found in ordered)
