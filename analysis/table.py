"""Results table of a study: a row per measured model, and the meaning of the columns.

A run folder holds `results.parquet` (the rows) and `meta.json` (objectives, units, baseline, provenance). Everything
else in this package is a function of these two.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.atomic import write_bytes
from analysis.renamed_states import RENAMED

FORMAT = 1
RESULTS = "results.parquet"
META = "meta.json"

_REQUIRED = ("point", "trial", "step", "state")
_OPTIONAL = ("last", "error", "notes", "technique", "sequence", "finished", "artifact", "mlflow_run_id")
_DIRECTIONS = ("minimize", "maximize")


class TableError(ValueError):
    """Bad input; the message is one line with the value and the way out."""


@dataclass(frozen=True)
class StudyTable:
    """Rows, metadata and folder of one study.

    `frame` has one row per point, in the order of measurement; `meta` is the parsed `meta.json`.
    """

    frame: pd.DataFrame
    meta: Mapping[str, Any]
    folder: Path

    @property
    def study(self) -> str:
        """Name of the study."""
        return str(self.meta["study"])

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the meters the study optimised, in the study's order."""
        return tuple(str(entry["name"]) for entry in self.meta["objectives"])

    @property
    def directions(self) -> tuple[str, ...]:
        """`minimize` or `maximize` for every objective."""
        return tuple(str(entry["direction"]) for entry in self.meta["objectives"])

    @property
    def plane(self) -> tuple[str, str]:
        """The two meters of a plane figure: the first objective, and the first objective of the other kind.

        Without one of the other kind it is the next objective, another meter, or the same meter.
        """
        names = self.objectives
        others = [name for name in names if self.kind(name) != self.kind(names[0])]
        return names[0], next(iter([*others, *names[1:], *self.meters[1:], *names]))

    @property
    def meters(self) -> tuple[str, ...]:
        """Names of all meters: the objectives first, then the others of the meta file and of the rows."""
        found = [name.removeprefix("meter/") for name in map(str, self.frame.columns) if name.startswith("meter/")]
        return tuple(dict.fromkeys((*self.objectives, *self.meta["meters"], *found)))

    @property
    def complete(self) -> pd.Series[bool]:
        """Mask of the rows whose measurement finished."""
        return self.frame["state"] == "complete"

    @property
    def uncompressed(self) -> pd.Series[bool]:
        """Mask of the rows of the base model, which every trial starts from."""
        return (self.frame["technique"] == "baseline") | (self.frame["step"] == 0)

    def unit(self, meter: str) -> str:
        """Return the unit of a meter; empty if it has none."""
        return str(self._about(meter).get("unit") or "")

    def direction(self, meter: str) -> str:
        """Return `minimize` or `maximize`; a meter without a description is minimised."""
        return str(self._about(meter).get("direction") or "minimize")

    def kind(self, meter: str) -> str:
        """Return `cost` or `quality`; without a description, a maximised meter is a quality."""
        kind = self._about(meter).get("kind")
        return str(kind) if kind else ("quality" if self.direction(meter) == "maximize" else "cost")

    @property
    def limits(self) -> dict[str, float]:
        """The study's limits by meter."""
        found = self.meta.get("limits", self.meta.get("budget")) or {}  # `budget` until 0.1
        return {str(meter): float(limit) for meter, limit in found.items() if limit is not None}

    def column(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return a numeric column as (n,) floats; NaN where it is missing, empty or not a number."""
        if name not in self.frame.columns:
            return np.full(len(self.frame), np.nan)
        return pd.to_numeric(self.frame[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)

    def values(self, meters: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return costs and validation values as (n, d) floats; NaN where a row has none."""
        return np.column_stack([self.column(f"meter/{meter}") for meter in meters]).reshape(
            len(self.frame), len(meters)
        )

    def baseline(self, meter: str, test: bool = False) -> tuple[float, float]:
        """Return the base model's value and standard error, NaN if unknown; with `test` on held-out data."""
        entry = (self.meta.get("baseline_test" if test else "baseline") or {}).get(meter) or {}
        return number(entry.get("value")), number(entry.get("stderr"))

    def corner(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return `reference` or `ideal` as (d,) floats in the order of the objectives; NaN if unknown."""
        corner = self.meta.get(name) or {}
        return np.array([number(corner.get(objective)) for objective in self.objectives], dtype=np.float64)

    def _about(self, meter: str) -> Mapping[str, Any]:
        about: dict[str, Any] = {}
        for entry in self.meta["objectives"]:
            if entry["name"] == meter:
                about.update(entry)
        about.update({key: value for key, value in (self.meta["meters"].get(meter) or {}).items() if value})
        return about


def number(value: object) -> float:
    """Convert a number to a float, and anything else to NaN."""
    if isinstance(value, (int, float, np.integer, np.floating)):
        return float(value)
    return math.nan


def load(folder: str | Path) -> StudyTable:
    """Read a run folder.

    Optional columns (notes, artifact, …) that are absent are filled with null. Raises TableError if the folder is
    missing, is not a run folder, or holds files of another format.
    """
    folder = Path(folder)
    if not folder.exists():
        raise TableError(f"no such folder: {folder}; name a run folder such as runs/<study>")
    if not folder.is_dir():
        raise TableError(f"a file, not a run folder: {folder}; name the folder that holds {META} and {RESULTS}")
    for name in (META, RESULTS):
        if not (folder / name).is_file():
            raise TableError(
                f"not a run folder ({name} is missing): {folder}; name a folder that a sweep wrote (runs/<study>)"
            )
    return StudyTable(_read_frame(folder / RESULTS), _read_meta(folder / META), folder)


def from_frame(frame: pd.DataFrame, objectives: Mapping[str, str], study: str = "study", **meta: Any) -> StudyTable:
    """Make a table from any DataFrame with a row per model, for the figures and indicators of this package.

    Args:
        frame: the rows. Meters are the columns named in `objectives` or `meter/<name>`. Other columns of a results
            table (`knob/<name>`, `stderr/<name>`, `technique`, `sequence`, `trial`, `state`, …) are optional.
        objectives: `minimize` or `maximize` by meter.
        study: a name for titles.
        **meta: further entries of `meta.json`, such as `reference`, `ideal`, `baseline` and `meters`.

    Raises:
        TableError: an objective has no column or another direction, or a point name is not unique.
    """
    frame = frame.rename(columns={name: f"meter/{name}" for name in objectives if name in frame.columns})
    for name, direction in objectives.items():
        if f"meter/{name}" not in frame.columns:
            raise TableError(f"no column {name} or meter/{name} in the frame; it has {', '.join(map(str, frame))}")
        if direction not in _DIRECTIONS:
            raise TableError(f"not a direction of {name}: {direction!r}; write minimize or maximize")
    rows = range(len(frame))
    filled: dict[str, Any] = {"point": [str(row) for row in rows], "trial": list(rows), "step": 1, "state": "complete"}
    filled |= dict.fromkeys(_OPTIONAL)
    frame = frame.assign(**{name: value for name, value in filled.items() if name not in frame.columns})
    if not frame["point"].is_unique:
        twice = frame["point"][frame["point"].duplicated()].iloc[0]
        raise TableError(f"point {twice} is in the frame twice; make the column `point` unique or drop it")
    about = [{"name": name, "direction": direction} for name, direction in objectives.items()]
    whole = {"format": FORMAT, "study": study, "meters": {}, **meta, "objectives": about}
    return StudyTable(frame.reset_index(drop=True), whole, Path())


def save(folder: str | Path, frame: pd.DataFrame, meta: Mapping[str, Any]) -> None:
    """Write `results.parquet` and `meta.json` atomically; make the folder if needed.

    Columns that mix numbers and text are stored as text, and numbers in `meta` that are not finite as null.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    _storable(frame).to_parquet(buffer, index=False)
    text = json.dumps(_finite(meta), indent=2, allow_nan=False, default=str)
    write_bytes(folder / RESULTS, buffer.getvalue())
    write_bytes(folder / META, text.encode())


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise TableError(f"cannot read {path} ({_one_line(error)}); resume the sweep to write it again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = repr(meta.get("format")) if isinstance(meta, dict) else "none"
        raise TableError(f"format {found}, not {FORMAT}: {path}; read it with the version that wrote it")
    if not isinstance(meta.get("meters", {}), dict) or not isinstance(meta.get("study"), str):
        raise TableError(f"no valid study or meters in {path}; resume the sweep to write it again")
    meta.setdefault("meters", {})
    if isinstance(meta.get("trials"), dict):
        meta["trials"] = {RENAMED.get(name, name): count for name, count in meta["trials"].items()}
    objectives = meta.get("objectives")
    if not isinstance(objectives, list) or not objectives:
        raise TableError(f"no objectives in {path}; resume the sweep to write it again")
    for entry in objectives:
        if not isinstance(entry, dict) or not entry.get("name") or entry.get("direction") not in _DIRECTIONS:
            raise TableError(f"not an objective: {entry!r} in {path}; it needs a name, and minimize or maximize")
    return meta


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # the reader raises many types for a damaged file; all mean the same here
        raise TableError(f"cannot read {path} ({_one_line(error)}); resume the sweep to write it again") from error
    missing = [name for name in _REQUIRED if name not in frame.columns]
    if missing:
        raise TableError(f"not a results table (no column {', '.join(missing)}): {path}; name a sweep's run folder")
    if not frame["point"].is_unique:
        twice = frame["point"][frame["point"].duplicated()].iloc[0]
        raise TableError(f"point {twice} is twice in {path}; resume the sweep to write the table again")
    frame = frame.assign(state=frame["state"].replace(RENAMED))
    return frame.assign(**{name: None for name in _OPTIONAL if name not in frame.columns}).reset_index(drop=True)


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    mixed = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype == object:
            known = column.dropna()
            words = known.map(lambda value: isinstance(value, str))
            numbers = known.map(lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))
            bools = known.map(lambda value: isinstance(value, bool))
            if len(known) and not (words.all() or numbers.all() or bools.all()):
                mixed[name] = column.map(str, na_action="ignore")
    return frame.assign(**mixed)


def _finite(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case np.generic():
            return _finite(value.item())
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
