"""Held-out test data: read once for each model on a final front, and kept in the study."""

from collections.abc import Mapping
from pathlib import Path

import optuna

from kmr.artifact import folder as artifact
from kmr.core import Reading, Readings
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.front_artifacts import artifact_path


def test_point(experiment: Experiment, study: optuna.Study, folder: Path, name: str) -> Readings:
    """Read the held-out data on the saved artifact, the first time a point is on a final front."""
    known = kept_test(study, name)
    if known is not None:
        return known
    saved = artifact_path(folder, name)
    model = artifact.load(saved, base=experiment.model) if saved.is_dir() else experiment.model
    readings = experiment.test(model)
    keep_test(study, name, readings)
    return readings


_TEST = "kmr:test:"


def keep_test(study: optuna.Study, point: str, readings: Readings) -> None:
    """Write the readings of a point on held-out data into the study."""
    study.set_user_attr(_TEST + point, {key: {"value": r.value, "stderr": r.stderr} for key, r in readings.items()})


def kept_test(study: optuna.Study, point: str) -> Readings | None:
    """Return the readings of a point on held-out data, where they are known."""
    stored = study.user_attrs.get(_TEST + point)
    return None if stored is None else to_readings(stored)


def to_readings(plain: Mapping[str, Mapping[str, float | None]]) -> dict[str, Reading]:
    """Turn stored readings back."""
    return {name: Reading(float(entry["value"] or 0.0), entry["stderr"]) for name, entry in plain.items()}
