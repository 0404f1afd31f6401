"""Content of the report page as plain values, which the template lays out."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.accounting import Spent, Tally, counts, failures, headline, models, time_spent, warnings
from analysis.contribution import Contribution, contributions
from analysis.front import close_neighbours, front_frame
from analysis.report.members import Member, Members, faithful_members, members
from analysis.selection.standing_answers import Answer, recommend
from analysis.table import StudyTable, number
from analysis.wording import NOTHING, duration, listing, plural, quantity


@dataclass(frozen=True)
class Page:
    """All values that the template shows."""

    study: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    answers: tuple[Answer, ...]
    meters: tuple[str, ...]
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
    """Collect the content of a study's report."""
    meta = table.meta
    front = StudyTable(front_frame(table), meta, table.folder)
    main = members(table, front)
    answers = recommend(table)
    mlflow = meta.get("mlflow") or {}
    return Page(
        study=table.study,
        summary=_describe_search(table),
        facts=_facts(table),
        problems=_problems(table),
        answers=answers,
        meters=tuple(_meters_with_values(table)),
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
        resume=_mask_password(meta.get("resume")),
        mlflow=_mask_password(mlflow.get("ui")),
        mlflow_uri=_mask_password(mlflow.get("uri")),
        command=_mask_password(meta.get("command")),
        config=_mask_password(json.dumps(meta.get("config") or {}, indent=2, ensure_ascii=False, default=str)),
        has_volume=bool(np.isfinite(table.corner("reference")).all()),
    )


def _mask_password(text: object) -> str:
    """Mask the password in an address such as postgresql://user:password@host, because reports are shared."""
    return re.sub(r"(://[^/\s:@\"']*):[^/\s@\"']+@", r"\1:***@", str(text or ""))


def _describe_search(table: StudyTable) -> str:
    aims = [
        f"{'lowest' if direction == 'minimize' else 'highest'} {name}"
        for name, direction in zip(table.objectives, table.directions, strict=True)
    ]
    knobs = [str(name).removeprefix("knob/") for name in table.frame.columns if str(name).startswith("knob/")]
    combined = table.frame["technique"][~table.uncompressed].dropna().unique()
    techniques = sorted({part.strip() for name in combined for part in str(name).split("+")} - {""})
    text = f"Search for {listing(aims)}"
    if techniques:
        text += f" over {listing(techniques)}"
    if len(techniques) > 1:
        text += f", alone and composed ({plural(len(combined), 'composition')})"
    if knobs:
        text += f", with {plural(len(knobs), 'knob')}: {', '.join(knobs)}"
    return text + "."


def _facts(table: StudyTable) -> tuple[tuple[str, str], ...]:
    meta = table.meta
    environment = meta.get("environment") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (meta.get("versions") or {}).items())
    facts = (
        ("Trials", headline(table)),
        ("Models", ", ".join(f"{count} {words}" for words, count in models(table)[:2])),
        ("Trial time", duration(number(meta.get("seconds")))),
        ("Seed", _text(meta.get("seed"))),
        ("Created", _text(meta.get("created"))),
        ("Code", _text(meta.get("git"))),
        (
            "Machine",
            ", ".join(f"{value}" if key == "cpu" else f"{key} {value}" for key, value in environment.items())
            or NOTHING,
        ),
        ("Versions", versions or NOTHING),
    )
    return tuple((name, value) for name, value in facts if value != NOTHING)


def _saved(table: StudyTable) -> str:
    """Describe the time that the cache saved."""
    cache = table.meta.get("cache") or {}
    hits, saved = cache.get("hits") or 0, number(cache.get("seconds_saved"))
    if not hits or not saved > 0:
        return ""
    return f"The cache saved another {duration(saved)}: it recalled {plural(hits, 'move')}."


def _text(value: object) -> str:
    return NOTHING if value is None or value == "" else str(value)


def _problems(table: StudyTable) -> tuple[str, ...]:
    found = []
    complete = table.complete.to_numpy(dtype=np.bool_)
    if not len(table.frame):
        found.append("The study has no points yet.")
    elif not complete.any():
        found.append("There is no front because no point is complete; Accounting lists the causes.")
    for name in table.objectives:
        if f"meter/{name}" not in table.frame.columns:
            found.append(f"The table has no values of the objective {name}.")
        elif complete.any() and not np.isfinite(table.column(f"meter/{name}")[complete]).all():
            count = int((~np.isfinite(table.column(f"meter/{name}")[complete])).sum())
            verb, pronoun = ("lacks", "is") if count == 1 else ("lack", "are")
            found.append(f"{plural(count, 'complete point')} {verb} a finite {name} and {pronoun} left out.")
    if not np.isfinite(table.corner("reference")).all():
        found.append("There is no hypervolume because the study does not state a reference point for every objective.")
    return tuple(found)


def _meters_with_values(table: StudyTable) -> list[str]:
    """List the meters with a value for some model, which the axes can show."""
    return [name for name in table.meters if np.isfinite(table.column(f"meter/{name}")).any()]


def _noise(table: StudyTable) -> tuple[str, ...]:
    return tuple(
        f"{pair.left} and {pair.right} differ in {pair.meter} by "
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
