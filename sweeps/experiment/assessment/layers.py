"""Layer-by-layer changes of front members, stored in the study and in the results table."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from torch import nn

from kmr.artifact import folder as artifact
from kmr.artifact.anatomy import anatomy
from kmr.core import KMRError, device_of
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.attributes import LAYERS, by_point, keep_for_point


def keep_layers(study: optuna.Study, base: nn.Module, folder: Path, names: Iterable[str]) -> None:
    """Compare these points' saved models with the base model, unless their layers are stored already.

    A model that cannot be loaded has none, so that the report is written all the same.
    """
    known = kept_layers(study)
    for name in names:
        saved = artifact_path(folder, name)
        if name in known or not saved.is_dir():
            continue
        try:
            found = anatomy(base, artifact.load(saved, base=base, device=device_of(base)))
        except KMRError:
            continue
        keep_for_point(study, LAYERS, name, [asdict(layer) for layer in found])


def kept_layers(study: optuna.Study) -> dict[str, Any]:
    """Return the stored layers by point."""
    return by_point(study, LAYERS)


def with_layers(frame: pd.DataFrame, layers: Mapping[str, Any]) -> pd.DataFrame:
    """Add the column `layers` to a results table: a JSON list for each point with stored layers, else null."""
    written = {name: json.dumps(layers[name]) for name in frame["point"] if name in layers}
    return frame.assign(layers=frame["point"].map(written))
