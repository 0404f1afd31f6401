"""Layers of saved models: kept once, and a column of the table."""

import json
from pathlib import Path

import optuna
import pandas as pd
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.instantiations.quantization import WeightQuantization
from sweeps.experiment.assessment.layers import keep_layers, kept_layers, with_layers

torch.set_num_threads(1)


def test_layers_are_kept_once_and_join_the_table(tmp_path: Path) -> None:
    with kmr.isolated_rng(0):
        base = nn.Sequential(nn.Linear(8, 4))
    made = WeightQuantization(name="quantize")(base, "quantize.bits", 4)
    kmr.save(tmp_path / "front" / "0.1", made, base=base, builder=Builder("torch.nn.Sequential"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    keep_layers(study, base, tmp_path, ["0.1", "0.2"])
    kept = dict(study.user_attrs)
    (tmp_path / "front" / "0.1" / "model.safetensors").unlink(missing_ok=True)
    keep_layers(study, base, tmp_path, ["0.1"])
    assert study.user_attrs == kept
    table = with_layers(pd.DataFrame({"point": ["0.1", "0.2"]}), kept_layers(study))
    layer = json.loads(table["layers"][0])[0]
    assert (layer["layer"], layer["width"], layer["bits"]) == ("0", 4, 4)
    assert pd.isna(table["layers"][1])


def test_a_damaged_model_has_no_layers(tmp_path: Path) -> None:
    (tmp_path / "front" / "1.1").mkdir(parents=True)
    study = optuna.create_study()
    keep_layers(study, nn.Sequential(nn.Linear(2, 2)), tmp_path, ["1.1"])
    assert study.user_attrs == {}
    assert with_layers(pd.DataFrame({"point": ["1.1"]}), kept_layers(study))["layers"].isna().all()
