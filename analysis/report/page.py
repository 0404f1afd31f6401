"""What the page says, as plain values: the template only lays them out."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.accounting import Spent, Tally, counts, failures, headline, models, time_spent, warnings
from analysis.contribution import Contribution, contributions
from analysis.front import close_neighbours, front_frame
from analysis.report.members import Member, Members, faithful_members, members
from analysis.selection.standing_answers import Answer, recommend
from analysis.table import StudyTable, number
from analysis.wording import NOTHING, duration, listing, meter_name, plural, quantity


class Choice(NamedTuple):
    """A meter that an axis may show."""

    name: str
    label: str


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    study: str
    searched: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    answers: tuple[Answer, ...]
    meters: tuple[Choice, ...]
    plane: tuple[str, str]
    front: Members
    faithfulness: Members | None
    noise: tuple[str, ...]
    contributions: tuple[Contribution, ...]
    models: tuple[tuple[str, str], ...]
    saved: str
    counts: tuple[tuple[str, str], ...]
    failures: tuple[Tally, ...]
    warnings: tuple[Tally, ...]
    spent: tuple[tuple[Spent, str], ...]
    load: str
    resume: str
    mlflow: str
    mlflow_uri: str
    command: str
    config: str
    has_volume: bool


def page(table: StudyTable) -> Page:
    """Collect what the report of a study says."""
    meta = table.meta
    front = StudyTable(front_frame(table), meta, table.folder)
    main = members(table, front)
    answers = recommend(table)
    mlflow = meta.get("mlflow") or {}
    return Page(
        study=table.study,
        searched=_searched(table),
        facts=_facts(table),
        problems=_problems(table),
        answers=answers,
        meters=tuple(Choice(name, meter_name(name)) for name in _shown_meters(table)),
        plane=table.plane,
        front=main,
        faithfulness=faithful_members(table, front),
        noise=_noise(table),
        contributions=contributions(table),
        counts=counts(table),
        models=models(table),
        saved=_saved(table),
        failures=failures(table),
        warnings=warnings(table),
        spent=tuple((entry, duration(entry.seconds)) for entry in time_spent(table)),
        load=_load(table, table.folder, answers, main.rows),
        resume=_masked(meta.get("resume")),
        mlflow=_masked(mlflow.get("ui")),
        mlflow_uri=_masked(mlflow.get("uri")),
        command=_masked(meta.get("command")),
        config=_masked(json.dumps(meta.get("config") or {}, indent=2, ensure_ascii=False, default=str)),
        has_volume=bool(np.isfinite(table.corner("reference")).all()),
    )


def _masked(text: object) -> str:
    """Hide the password of an address such as postgresql://user:password@host; a report is made to be passed on."""
    return re.sub(r"(://[^/\s:@\"']*):[^/\s@\"']+@", r"\1:***@", str(text or ""))


def _searched(table: StudyTable) -> str:
    aims = [
        f"{'least' if direction == 'minimize' else 'best'} {meter_name(name)}"
        for name, direction in zip(table.objectives, table.directions, strict=True)
    ]
    knobs = [str(name).removeprefix("knob/") for name in table.frame.columns if str(name).startswith("knob/")]
    combined = table.frame["technique"][~table.uncompressed].dropna().unique()
    techniques = sorted({part.strip() for name in combined for part in str(name).split("+")} - {""})
    text = f"Searched for {listing(aims)}"
    if techniques:
        text += f" over {listing(techniques)}"
    if len(techniques) > 1:
        text += f", alone and combined ({plural(len(combined), 'combination')})"
    if knobs:
        text += f", turning {plural(len(knobs), 'knob')}: {', '.join(knobs)}"
    return text + "."


def _facts(table: StudyTable) -> tuple[tuple[str, str], ...]:
    meta = table.meta
    environment = meta.get("environment") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (meta.get("versions") or {}).items())
    facts = (
        ("Trials", headline(table)),
        ("Models", ", ".join(f"{count} {words}" for words, count in models(table)[:2])),
        ("Trial time", duration(number(meta.get("seconds")))),
        ("Seed", _shown(meta.get("seed"))),
        ("Created", _shown(meta.get("created"))),
        ("Code", _shown(meta.get("git"))),
        (
            "Machine",
            ", ".join(f"{value}" if key == "cpu" else f"{key} {value}" for key, value in environment.items())
            or NOTHING,
        ),
        ("Versions", versions or NOTHING),
    )
    return tuple((name, value) for name, value in facts if value != NOTHING)


def _saved(table: StudyTable) -> str:
    """Say what time would have been spent as well, had nothing been recalled."""
    cache = table.meta.get("cache") or {}
    hits, saved = cache.get("hits") or 0, number(cache.get("seconds_saved"))
    if not hits or not saved > 0:
        return ""
    return f"The cache saved {duration(saved)} more: {plural(hits, 'move')} recalled, not taken again."


def _shown(value: object) -> str:
    return NOTHING if value is None or value == "" else str(value)


def _problems(table: StudyTable) -> tuple[str, ...]:
    found = []
    complete = table.complete.to_numpy(dtype=np.bool_)
    if not len(table.frame):
        found.append("The study has no points yet.")
    elif not complete.any():
        found.append("No point is complete, so there is no front; the causes are listed under Accounting.")
    for name in table.objectives:
        if f"meter/{name}" not in table.frame.columns:
            found.append(f"The table has no values of the objective {meter_name(name)}.")
        elif complete.any() and not np.isfinite(table.column(f"meter/{name}")[complete]).all():
            count = int((~np.isfinite(table.column(f"meter/{name}")[complete])).sum())
            verb, pronoun = ("lacks", "is") if count == 1 else ("lack", "are")
            found.append(
                f"{plural(count, 'complete point')} {verb} a finite {meter_name(name)} and {pronoun} left out."
            )
    if not np.isfinite(table.corner("reference")).all():
        found.append("The study states no reference point for every objective, so there is no hypervolume.")
    return tuple(found)


def _shown_meters(table: StudyTable) -> list[str]:
    """List the meters of which some model has a value: what axes can show."""
    return [name for name in table.meters if np.isfinite(table.column(f"meter/{name}")).any()]


def _noise(table: StudyTable) -> tuple[str, ...]:
    return tuple(
        f"{pair.left} and {pair.right} differ in {meter_name(pair.meter)} by "
        f"{quantity(pair.difference, table.unit(pair.meter))}, "
        f"less than the standard error of that difference, {quantity(pair.stderr, table.unit(pair.meter))}."
        for pair in close_neighbours(table)
    )


def _load(table: StudyTable, folder: Path, answers: tuple[Answer, ...], rows: tuple[Member, ...]) -> str:
    artifacts = [answer.artifact for answer in answers if answer.artifact] + [
        entry.artifact for entry in rows if entry.artifact
    ]
    if not artifacts:
        return ""
    relative = Path(os.path.relpath(folder))
    shown = folder if relative.parts[:1] == ("..",) else relative
    trusted = (table.meta.get("config") or {}).get("trusted_modules")
    also = f", trusted_modules={json.dumps(trusted, ensure_ascii=False)}" if trusted else ""
    return f"kmr.load({json.dumps(str(Path(shown) / artifacts[0]), ensure_ascii=False)}{also})"
