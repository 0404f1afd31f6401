"""Accuracy-degradation profiles of front members on held-out data, stored in the study and in the results table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import optuna
import pandas as pd

from kmr.core import KMRError
from kmr.meters import AccuracyDegradationFactor
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.attributes import PROFILE, by_point, keep_for_point


def keep_profiles(study: optuna.Study, experiment: Experiment, folder: Path, names: Iterable[str]) -> None:
    """Measure and store the profiles of the base model and of these saved models, unless they are stored already.

    Without an accuracy-degradation factor among the experiment's meters there are no profiles. A model that cannot be
    loaded has none, so that its other readings still reach the report.
    """
    meters = [meter for meter in experiment.test_qualities if isinstance(meter, AccuracyDegradationFactor)]
    known = kept_profiles(study)
    for name in ("base", *names) if meters else ():
        saved = artifact_path(folder, name)
        if name in known or (name != "base" and not saved.is_dir()):
            continue
        try:
            model = experiment.model if name == "base" else experiment.load(saved)
            keep_for_point(study, PROFILE, name, meters[0].profile_of(model))
        except KMRError:
            continue


def kept_profiles(study: optuna.Study) -> dict[str, list[float]]:
    """Return the stored profiles by point."""
    return by_point(study, PROFILE)


def with_profiles(frame: pd.DataFrame, profiles: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Add the column `test_profile` to a results table: a JSON list for each point with a stored profile, else null."""
    written = {name: json.dumps(list(profiles[name])) for name in frame["point"] if name in profiles}
    return frame.assign(test_profile=frame["point"].map(written))
