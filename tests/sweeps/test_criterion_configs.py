"""Every criterion of `conf/criterion`, as an experiment selects it."""

from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from small import SMALL
from torch import nn

import conf
from kmr.data import Split
from kmr.instantiations.pruning import StructuredPruning
from sweeps.experiment.instantiate import part

CRITERIA = sorted(path.stem for path in (Path(conf.__file__).parent / "criterion").glob("*.yaml"))


def test_an_experiment_names_its_criterion() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=[*SMALL, "+criterion=taylor"])
    assert config.rules.structured.criterion._target_.endswith(".Taylor")


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_prunes_from_its_config(name: str) -> None:
    criterion = yaml.safe_load((Path(conf.__file__).parent / "criterion" / f"{name}.yaml").read_text())
    inputs = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    config = {"_target_": "kmr.instantiations.pruning.StructuredPruning", "criterion": criterion, "scope": "global"}
    rule = part("rules.structured", config, data=Split((inputs, torch.arange(8) % 4), 4), example_inputs=inputs[:1])
    assert isinstance(rule, StructuredPruning)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ).eval()  # fmt: skip
    smaller = rule(model, "structured.ratio", 0.5)
    again = rule(model, "structured.ratio", 0.5)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(map(torch.equal, smaller.state_dict().values(), again.state_dict().values()))
