"""The results table: a row for each measured model, written from the study's records for `analysis` to read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.table import FORMAT, StudyTable
from analysis.uncertainty import front_probability
from kmr.core import Readings, TransformationSequence
from sweeps.experiment.assessment.noise import PointNoise, summary
from sweeps.experiment.front import corners
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.point import Point, identifier
from sweeps.search.study.record import Record, recalled
from sweeps.search.study.trial_state import TrialState
from sweeps.views.card import StudyCard, without_passwords
from sweeps.views.provenance import environment, git_commit, versions

_ENDED = [state for state in TrialState if state not in (TrialState.WAITING, TrialState.RUNNING)]


def technique(card: StudyCard, sequence: TransformationSequence) -> str:
    """Name the techniques of a sequence, in order of first use."""
    names = [card.techniques.get(move.knob, move.knob) for move in sequence]
    return " + ".join(dict.fromkeys(names)) or "baseline"


def frame(
    card: StudyCard,
    found: Sequence[Record],
    tested: Mapping[str, Readings],
    run_ids: Mapping[int, str],
    folder: Path,
    unsaved: Mapping[str, str],
) -> pd.DataFrame:
    """Return the table of all points: the base model first, then the trials' in order.

    A trial that is not complete has an extra row for how it ended; a duplicate has that row only. A model that could
    not be saved is a failure, whatever it measured.
    """
    base = Record(-1, {}, TrialState.COMPLETE, (card.base_point,))
    rows = []
    for record in (base, *found):
        points = record.points if record.state != TrialState.DUPLICATE else ()
        for index, point in enumerate(points, start=1):
            last = index == len(points) and record.state == TrialState.COMPLETE
            row = _row(card, record, point, last, tested, run_ids, folder)
            if row["point"] in unsaved:
                row |= {"state": TrialState.FAILED.value, "error": f"cannot be saved: {unsaved[row['point']]}"}
            rows.append(row)
        if record.state != TrialState.COMPLETE:
            rows.append(_ended(record, len(points) + 1, run_ids))
    return pd.DataFrame(rows)


def with_noise(frame: pd.DataFrame, meta: Mapping[str, Any], noise: Mapping[str, PointNoise]) -> pd.DataFrame:
    """Add the noise columns, and each point's probability of being on the front."""
    table = StudyTable(frame, meta, Path())
    most = max((len(values) for found in noise.values() for values in found.resamples.values()), default=0)
    replicates = np.full((most, len(frame), len(table.objectives)), np.nan)
    rows = {str(point): row for row, point in enumerate(frame["point"])}
    for name, found in noise.items():
        for column, meter in enumerate(table.objectives):
            values = found.resamples.get(meter, [])
            if name in rows and len(values) == most:
                replicates[:, rows[name], column] = values
    columns = [summary(noise[str(point)]) if str(point) in noise else {} for point in frame["point"]]
    added = pd.DataFrame(columns, index=frame.index)
    return frame.assign(p_front=front_probability(table, replicates), **{str(name): added[name] for name in added})


def _row(
    card: StudyCard,
    record: Record,
    point: Point,
    last: bool,
    tested: Mapping[str, Readings],
    run_ids: Mapping[int, str],
    folder: Path,
) -> dict[str, Any]:
    name = identifier(record.number, point.step)
    saved = artifact_path(folder, name)
    row: dict[str, Any] = {
        "point": name,
        "trial": record.number,
        "step": point.step,
        "last": last,
        "state": TrialState.COMPLETE.value,
        "error": None,
        "notes": "\n".join((*point.notes, *(record.notes if last else ()))),
        "technique": technique(card, point.moves),
        "sequence": json.dumps(point.sequence),
        "finished": record.finished,
        "artifact": saved.relative_to(folder).as_posix() if saved.is_dir() else None,
        "mlflow_run_id": run_ids.get(record.number),
    }
    row |= {f"knob/{move.knob}": move.value for move in point.moves}
    for meter, (value, stderr) in point.readings.items():
        row |= {f"meter/{meter}": value, f"stderr/{meter}": stderr}
    for meter, reading in tested.get(name, {}).items():
        row |= {f"test/{meter}": reading.value, f"test_stderr/{meter}": reading.stderr}
    return row | {f"seconds/{part}": seconds for part, seconds in point.seconds.items()}


def _ended(record: Record, step: int, run_ids: Mapping[int, str]) -> dict[str, Any]:
    duplicate = None if record.duplicate_of is None else f"the model of trial {record.duplicate_of}"
    return {
        "point": f"{record.number}.end",
        "trial": record.number,
        "step": step,
        "last": True,
        "state": record.state.value,
        "error": record.error or duplicate,
        "notes": "\n".join(record.notes),
        "technique": "",
        "sequence": json.dumps([]),
        "finished": record.finished,
        "mlflow_run_id": run_ids.get(record.number),
        **{f"knob/{name}": value for name, value in record.params.items()},
    }


def meta(
    card: StudyCard,
    found: Sequence[Record],
    base_test: Readings,
    untrained: Mapping[TrialState, int],
    rejected: int,
    *,
    created: str,
    place: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the meaning of the columns, and how the study was run."""
    reference, ideal = corners(card)
    states = [record.state for record in found]
    return {
        "format": FORMAT,
        "study": card.config.name,
        "created": created,
        "seed": card.config.seed,
        "objectives": [
            {"name": m.name, "direction": m.direction, "kind": m.kind, "unit": m.unit} for m in card.objectives
        ],
        "meters": {m.name: {"unit": m.unit, "direction": m.direction, "kind": m.kind} for m in card.meters},
        "reference": reference,
        "ideal": ideal,
        "baseline": _plain(card.base.readings),
        "baseline_test": _plain(base_test),
        "limits": dict(card.config.limits),
        "trials": {
            "asked": len(found),
            **{state.value: states.count(state) for state in _ENDED},
            **{f"{state} before training": count for state, count in untrained.items()},
            "rejected candidates": rejected,
            "target": card.config.trials,
        },
        "cache": asdict(recalled(found)),
        "seconds": sum(record.seconds for record in found),
        "overhead_seconds": sum(record.overhead for record in found),
        "command": card.command,
        "resume": card.resume,
        "mlflow": dict(place) if place else None,
        "versions": versions(),
        "git": git_commit(),
        "environment": environment(),
        "config": without_passwords(card.plain),
    }


def _plain(readings: Readings) -> dict[str, dict[str, float | None]]:
    return {name: {"value": reading.value, "stderr": reading.stderr} for name, reading in readings.items()}
