"""Where the trials and the time went: states, causes of failure, warnings, seconds by activity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.table import STATES, StudyTable

ACTIVITIES = {
    "seconds/rule": "compressing (rules)",
    "seconds/finetune": "fine-tuning",
    "seconds/meter": "measuring (meters)",
    "seconds/other": "other",
}


class Tally(NamedTuple):
    """A text and the points it happened to."""

    text: str
    size: int
    points: tuple[str, ...]


class Spent(NamedTuple):
    """Seconds spent on one activity and its share of all, in [0, 1]."""

    activity: str
    seconds: float
    share: float


def states(table: StudyTable) -> dict[str, int]:
    """Count the points in every state, known states first."""
    counts = table.frame["state"].value_counts().to_dict()
    return {str(state): int(counts.get(state, 0)) for state in dict.fromkeys((*STATES, *map(str, counts)))}


_COUNTED = {
    "asked": "trials finished",
    "complete": "complete",
    "failed": "without a result",
    "infeasible": "infeasible",
    "pruned": "stopped early",
    "interrupted": "interrupted",
    "served": "served from an earlier trial",
    "retried": "tried again",
    "cache_hits": "steps recalled from the cache",
    "cache_misses": "steps that were not in the cache",
}


def counts(table: StudyTable) -> tuple[tuple[str, str], ...]:
    """Say in words what became of the trials, as the study counted them: with duplicates served and cache hits.

    Whatever whole numbers the meta file counts under `trials` and `cache`; the target is left out.
    """
    found = []
    for part in ("trials", "cache"):
        entries = table.meta.get(part)
        for name, value in entries.items() if isinstance(entries, dict) else ():
            key = f"{part}_{name}" if part == "cache" else str(name)
            if name != "target" and isinstance(value, int) and not isinstance(value, bool):
                found.append((_COUNTED.get(key, key.replace("_", " ")), f"{value:,}"))
    return tuple(found)


def failures(table: StudyTable) -> tuple[Tally, ...]:
    """Group the failed and interrupted points by the first line of their error, the most frequent first."""
    rows = table.frame[table.frame["state"].isin(["failed", "interrupted"])]
    causes = rows["error"].map(_first_line).where(rows["error"].notna(), "no error recorded")
    return _tallies(causes, rows["point"])


def warnings(table: StudyTable) -> tuple[Tally, ...]:
    """Group what the rules warned about, line by line, the most frequent first."""
    notes = table.frame["notes"].map(lambda note: note.splitlines() if isinstance(note, str) else []).explode().dropna()
    notes = notes.map(lambda line: str(line).strip())
    notes = notes[notes != ""]
    return _tallies(notes, table.frame["point"].loc[notes.index])


def time_spent(table: StudyTable) -> tuple[Spent, ...]:
    """Add up the seconds of all points by activity; shares are of that sum, which parallel workers spend at once."""
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
