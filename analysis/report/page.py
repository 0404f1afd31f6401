"""What the page says, as plain values: the template only lays them out."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.accounting import Spent, Tally, failures, states, time_spent, warnings
from analysis.front import close_neighbours, front_frame
from analysis.recommend import Answer, recommend
from analysis.table import StudyTable, number
from analysis.wording import NOTHING, duration, listing, meter_name, plural, quantity, sequence


@dataclass(frozen=True)
class Member:
    """A row of the front table; `values` and `test` follow the page's `meters` and `tested`."""

    point: str
    technique: str
    sequence: str
    values: tuple[str, ...]
    test: tuple[str, ...]
    artifact: str
    run: str


@dataclass(frozen=True)
class Page:
    """Everything the template shows; the first `objectives` of the `meters` are the objectives."""

    study: str
    searched: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    answers: tuple[Answer, ...]
    meters: tuple[str, ...]
    objectives: int
    tested: tuple[str, ...]
    members: tuple[Member, ...]
    baseline: Member | None
    noise: tuple[str, ...]
    states: Mapping[str, int]
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
    tested = tuple(meter for meter in table.meters if np.isfinite(front.column(f"test/{meter}")).any())
    members = _members(front, tested)
    answers = recommend(table)
    mlflow = meta.get("mlflow") or {}
    return Page(
        study=table.study,
        searched=_searched(table),
        facts=_facts(table),
        problems=_problems(table),
        answers=answers,
        meters=tuple(map(meter_name, table.meters)),
        objectives=len(table.objectives),
        tested=tuple(map(meter_name, tested)),
        members=members,
        baseline=_baseline(table, tested),
        noise=_noise(table),
        states={state: count for state, count in states(table).items() if count},
        failures=failures(table),
        warnings=warnings(table),
        spent=tuple((entry, duration(entry.seconds)) for entry in time_spent(table)),
        load=_load(table, table.folder, answers, members),
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
    trials = meta.get("trials") or {}
    counted = [
        f"{trials[key]:,} {word}" for key, word in (("complete", "complete"), ("failed", "failed")) if key in trials
    ]
    asked = f" of {trials['target']:,} planned" if trials.get("target") else ""
    environment = meta.get("environment") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (meta.get("versions") or {}).items())
    facts = (
        ("Trials", ", ".join(counted) + asked if counted else f"{table.frame['trial'].nunique():,}"),
        ("Points", f"{len(table.frame):,} measured, {int(table.complete.sum()):,} complete"),
        ("Wall time", duration(number(meta.get("seconds")))),
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


def _members(front: StudyTable, tested: tuple[str, ...]) -> tuple[Member, ...]:
    values = [_column(front, meter, "meter", "stderr") for meter in front.meters]
    tests = [_column(front, meter, "test", "test_stderr") for meter in tested]
    return tuple(
        Member(
            point=str(row["point"]),
            technique=_cell(row["technique"]),
            sequence=sequence(row["sequence"]),
            values=tuple(column[index] for column in values),
            test=tuple(column[index] for column in tests),
            artifact=_cell(row["artifact"]),
            run=_cell(row["mlflow_run_id"]),
        )
        for index, (_, row) in enumerate(front.frame.iterrows())
    )


def _column(front: StudyTable, meter: str, kind: str, stderr: str) -> list[str]:
    pairs = zip(front.column(f"{kind}/{meter}"), front.column(f"{stderr}/{meter}"), strict=True)
    return [quantity(value, front.unit(meter), error) for value, error in pairs]


def _cell(value: object) -> str:
    return value if isinstance(value, str) else ""


def _baseline(table: StudyTable, tested: tuple[str, ...]) -> Member | None:
    values = [table.baseline(meter) for meter in table.meters]
    if not any(math.isfinite(value) for value, _ in values):
        return None
    tests = [(meter, *table.baseline(meter, test=True)) for meter in tested]
    return Member(
        point="baseline",
        technique="uncompressed",
        sequence="unchanged",
        values=tuple(
            quantity(value, table.unit(meter), err) for meter, (value, err) in zip(table.meters, values, strict=True)
        ),
        test=tuple(quantity(value, table.unit(meter), err) for meter, value, err in tests),
        artifact="",
        run="",
    )


def _noise(table: StudyTable) -> tuple[str, ...]:
    return tuple(
        f"{pair.left} and {pair.right} differ in {meter_name(pair.meter)} by "
        f"{quantity(pair.difference, table.unit(pair.meter))}, "
        f"less than the standard error of that difference, {quantity(pair.stderr, table.unit(pair.meter))}."
        for pair in close_neighbours(table)
    )


def _load(table: StudyTable, folder: Path, answers: tuple[Answer, ...], members: tuple[Member, ...]) -> str:
    artifacts = [answer.artifact for answer in answers if answer.artifact] + [
        entry.artifact for entry in members if entry.artifact
    ]
    if not artifacts:
        return ""
    relative = Path(os.path.relpath(folder))
    shown = folder if relative.parts[:1] == ("..",) else relative
    trusted = (table.meta.get("config") or {}).get("trusted_modules")
    also = f", trusted_modules={json.dumps(trusted, ensure_ascii=False)}" if trusted else ""
    return f"kmr.load({json.dumps(str(Path(shown) / artifacts[0]), ensure_ascii=False)}{also})"
