"""Held-out test data: read once for each model on a final front, and kept in the study."""

from collections.abc import Mapping
from pathlib import Path

import optuna

from kmr.artifact import folder as artifact
from kmr.core import Reading, Readings
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.attributes import TEST, by_point, keep_for_point


def test_point(experiment: Experiment, study: optuna.Study, folder: Path, name: str) -> Readings:
    """Read the held-out data on the saved artifact, the first time a point is on a final front."""
    known = kept_tests(study)
    if name in known:
        return known[name]
    saved = artifact_path(folder, name)
    model = artifact.load(saved, base=experiment.model) if saved.is_dir() else experiment.model
    readings = experiment.test(model)
    keep_test(study, name, readings)
    return readings


def keep_test(study: optuna.Study, point: str, readings: Readings) -> None:
    """Write the readings of a point on held-out data into the study."""
    keep_for_point(study, TEST, point, {key: {"value": r.value, "stderr": r.stderr} for key, r in readings.items()})


def kept_tests(study: optuna.Study) -> dict[str, Readings]:
    """Return the readings on held-out data of every point for which they are kept."""
    return {point: _to_readings(plain) for point, plain in by_point(study, TEST).items()}


def _to_readings(plain: Mapping[str, Mapping[str, float | None]]) -> dict[str, Reading]:
    """Turn stored readings back."""
    return {name: Reading(float(entry["value"] or 0.0), entry["stderr"]) for name, entry in plain.items()}
