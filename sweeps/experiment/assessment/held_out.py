"""Readings on held-out test data: taken once for each member of a final front, and stored in the study."""

from collections.abc import Mapping
from pathlib import Path

import optuna

from kmr.core import Reading, Readings
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.attributes import TEST, by_point, keep_for_point


def test_point(experiment: Experiment, study: optuna.Study, folder: Path, name: str) -> Readings:
    """Measure a point's saved artifact on the held-out data, or return the stored readings."""
    known = kept_tests(study)
    if name in known:
        return known[name]
    saved = artifact_path(folder, name)
    model = experiment.load(saved) if saved.is_dir() else experiment.model
    readings = experiment.test(model)
    keep_test(study, name, readings)
    return readings


def keep_test(study: optuna.Study, point: str, readings: Readings) -> None:
    """Store a point's held-out readings in the study."""
    keep_for_point(study, TEST, point, {key: {"value": r.value, "stderr": r.stderr} for key, r in readings.items()})


def kept_tests(study: optuna.Study) -> dict[str, Readings]:
    """Return the stored held-out readings by point."""
    return {point: _to_readings(plain) for point, plain in by_point(study, TEST).items()}


def _to_readings(plain: Mapping[str, Mapping[str, float | None]]) -> dict[str, Reading]:
    """Turn stored values into readings."""
    return {name: Reading(float(entry["value"] or 0.0), entry["stderr"]) for name, entry in plain.items()}
