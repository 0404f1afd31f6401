"""Data of a study for the page's scripts: columns of numbers, from which they draw every view."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.contribution import parts
from analysis.pareto.dominance import Floats
from analysis.plots.groups import group_techniques
from analysis.selection.standing_answers import tolerance
from analysis.table import StudyTable
from analysis.wording import axis_label, is_bytes, is_plain


def payload(table: StudyTable) -> dict[str, Any]:
    """Collect the scripts' data as JSON values: numbers of six significant digits, null where unknown."""
    frame, meters = table.frame, table.meters
    technique = [" + ".join(parts(name)) or "baseline" for name in frame["technique"]]
    groups, order = group_techniques(table)
    knobs, sequences = _sequences(frame)
    return {
        "study": table.study,
        "objectives": list(table.objectives),
        "meters": [_meter(table, name) for name in meters],
        "limits": table.limits,
        "reference": _reference(table),
        "baseline": {name: _pair(*table.baseline(name)) for name in meters},
        "baselineTest": {name: _pair(*table.baseline(name, test=True)) for name in meters},
        "groups": [{"name": name, "colour": mark.colour, "symbol": mark.symbol} for name, mark in order.items()],
        "group": groups,
        "techniques": list(dict.fromkeys(technique)),
        "technique": _encode(technique),
        "states": list(dict.fromkeys(map(str, frame["state"]))),
        "state": _encode(list(map(str, frame["state"]))),
        "point": list(map(str, frame["point"])),
        "trial": _ints(table.column("trial")),
        "step": _ints(table.column("step")),
        "knobs": knobs,
        "sequence": sequences,
        "value": {name: numbers(table.column(f"meter/{name}")) for name in meters},
        "stderr": _sparse(table, "stderr", meters),
        "test": _sparse(table, "test", meters),
        "testStderr": _sparse(table, "test_stderr", meters),
        "seconds": numbers(_seconds(table)),
        "chance": _sparse_column(table, "p_front"),
        "error": _texts(frame["error"], 300),
        "notes": _texts(frame["notes"], 600),
        "artifact": _texts(frame["artifact"], 300),
        "run": _texts(frame["mlflow_run_id"], 100),
        "layers": _layers(table),
        "link": _run_link(table.meta.get("mlflow") or {}),
        "folder": _relative(table.folder),
        "trusted": list((table.meta.get("config") or {}).get("trusted_modules") or ()),
        "reproduce": reproduction(table.meta),
    }


def numbers(column: Floats) -> list[float | int | None]:
    """Shorten numbers: six significant digits, integers without a point, null for unknown and infinite ones."""
    return [_short(value) for value in column.tolist()]


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.6g}")


def _meter(table: StudyTable, name: str) -> dict[str, Any]:
    unit = table.unit(name)
    base = table.baseline(name)[0]
    return {
        "name": name,
        "axis": axis_label(name, unit, table.direction(name)),
        "unit": unit,
        "bytes": is_bytes(unit),
        "plain": is_plain(unit),
        "sign": 1 if table.direction(name) == "minimize" else -1,
        "cost": table.kind(name) == "cost",
        "near": _short(tolerance(name, unit, base)[0]) if table.kind(name) == "quality" else None,
    }


def _reference(table: StudyTable) -> dict[str, float | int | None]:
    corner = zip(table.objectives, table.corner("reference").tolist(), strict=True)
    return {name: _short(value) for name, value in corner if math.isfinite(value)}


def _pair(value: float, stderr: float) -> list[float | int | None]:
    return [_short(value), _short(stderr)]


def _encode(words: Sequence[str]) -> list[int]:
    places = {word: index for index, word in enumerate(dict.fromkeys(words))}
    return [places[word] for word in words]


def _ints(column: Floats) -> list[int]:
    return [int(value) if math.isfinite(value) else -1 for value in column]


def _sequences(frame: pd.DataFrame) -> tuple[list[str], list[list[list[Any]]]]:
    """Return the knobs' names, and each row's moves as [index of the knob, value]."""
    names: dict[str, int] = {}
    found = []
    for text in frame["sequence"]:
        try:
            moves = [(str(knob), value) for knob, value in json.loads(text)] if isinstance(text, str) else []
        except (ValueError, TypeError):
            moves = []
        found.append([[names.setdefault(knob, len(names)), _plain(value)] for knob, value in moves])
    return list(names), found


def _plain(value: object) -> object:
    if isinstance(value, float):
        return _short(value)
    return value if isinstance(value, int | str | bool) or value is None else json.dumps(value, default=str)


def _sparse(table: StudyTable, kind: str, meters: Sequence[str]) -> dict[str, Any]:
    """Return the columns that are not empty; those that are mostly empty as row numbers and values."""
    found: dict[str, Any] = {}
    for name in meters:
        column = table.column(f"{kind}/{name}")
        known = np.flatnonzero(np.isfinite(column))
        if len(known):
            found[name] = {"at": known.tolist(), "is": numbers(column[known])} if 4 * len(known) < len(column) else {
                "is": numbers(column)
            }  # fmt: skip
    return found


def _sparse_column(table: StudyTable, column: str) -> dict[str, Any] | None:
    """Return an optional column as row numbers and values."""
    values = table.column(column)
    known = np.flatnonzero(np.isfinite(values))
    return {"at": known.tolist(), "is": numbers(values[known])} if len(known) else None


def _seconds(table: StudyTable) -> Floats:
    names = [str(name) for name in table.frame.columns if str(name).startswith("seconds/")]
    if not names:
        return np.full(len(table.frame), np.nan)
    return np.asarray(np.nansum(np.column_stack([table.column(name) for name in names]), axis=1), dtype=np.float64)


def _texts(column: pd.Series[Any], most: int) -> dict[int, str]:
    return {index: text[:most] for index, text in enumerate(column) if isinstance(text, str) and text}


def _layers(table: StudyTable) -> dict[int, Any]:
    """Return the recorded layers by row: a list of objects for each row that has one."""
    if "layers" not in table.frame.columns:
        return {}
    found = {}
    for index, text in enumerate(table.frame["layers"]):
        if isinstance(text, str):
            try:
                found[index] = json.loads(text, parse_constant=lambda _: None)
            except ValueError:
                continue
    return {index: entry for index, entry in found.items() if isinstance(entry, list)}


def _run_link(mlflow: Mapping[str, Any]) -> str:
    link, experiment = str(mlflow.get("link") or ""), mlflow.get("experiment_id")
    root = link.partition("/#/")[0]
    if experiment is None or not re.fullmatch(r"https?://[^\s\"'<>@]+", root):
        return ""
    return f"{root}/#/experiments/{experiment}/runs/"


def reproduction(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the start of a command that makes one model of the study again, and the knobs it must set.

    Empty if the study records no command, or if it searched a policy's parameters: then the moves of a model are known
    only after the policy has run.
    """
    config = meta.get("config") or {}
    try:
        words = shlex.split(str(meta.get("command") or ""))
    except ValueError:
        return {}
    if len(words) < 4 or config.get("policy"):
        return {}
    dropped = ("trials=", "name=", "space.", "report.", "sampler=", "sampler.")
    kept = [word for word in words if not word.lstrip("+~").startswith(dropped)]
    return {"command": shlex.join(kept), "knobs": _leaves(config.get("space") or {})}


def _leaves(space: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in space.items():
        if isinstance(value, Mapping) and not set(value) & {"low", "high", "step", "log", "values"}:
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found


def _relative(folder: Path) -> str:
    """Write a folder relative to the working directory, or in full if it is outside."""
    relative = Path(os.path.relpath(folder))
    return str(folder if relative.parts[:1] == ("..",) else relative)
