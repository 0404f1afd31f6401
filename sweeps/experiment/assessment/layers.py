"""What became of each layer of the front's models: kept with the study, and a column of the results table."""

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
from kmr.core import KMRError
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.attributes import LAYERS, by_point, keep_for_point


def keep_layers(study: optuna.Study, base: nn.Module, folder: Path, names: Iterable[str]) -> None:
    """Compare the saved models of these points with the base model, the first time each is asked for.

    A model that cannot be loaded or stored has none: a picture of layers is not worth a report.
    """
    known = kept_layers(study)
    for name in names:
        saved = artifact_path(folder, name)
        if name in known or not saved.is_dir():
            continue
        try:
            found = anatomy(base, artifact.load(saved, base=base))
        except KMRError:
            continue
        keep_for_point(study, LAYERS, name, [asdict(layer) for layer in found])


def kept_layers(study: optuna.Study) -> dict[str, Any]:
    """Return the layers of every point for which they are kept."""
    return by_point(study, LAYERS)


def with_layers(frame: pd.DataFrame, layers: Mapping[str, Any]) -> pd.DataFrame:
    """Add the column `layers` to a results table: a JSON list for each point whose layers are kept, else null."""
    written = {name: json.dumps(layers[name]) for name in frame["point"] if name in layers}
    return frame.assign(layers=frame["point"].map(written))
