"""The README's own example runs as it is written there."""

import io
import re
import sys
from pathlib import Path

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from torch import nn

import conf
import kmr
from kmr.core import measure
from kmr.data import Split
from kmr.finetune import FineTune
from sweeps.run import run

README = Path(__file__).parent.parent / "README.md"


def block(language: str, holding: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return next(text for text in found if holding in text)


def test_a_users_model_from_outside_the_checkout_runs(tmp_path, monkeypatch) -> None:
    python, yaml = block("python", "load_diabetes"), block("yaml", "my_model.build")
    assert len(python.splitlines()) < 30, "bring-your-own-model fits in 30 lines"
    (tmp_path / "exp").mkdir()
    (tmp_path / "my_model.py").write_text(python)
    (tmp_path / "exp" / "diabetes.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    argv = ["+exp=diabetes", "trials=6", "threads=1", "report.images=false", "tracking.enabled=false"]
    # What --config-dir does on the command line.
    with initialize_config_dir(str(Path(conf.__file__).parent), version_base="1.3"):
        config = compose("config", overrides=[f"hydra.searchpath=[file://{tmp_path}]", *argv])
    assert run(config, argv, Console(file=io.StringIO())) == 0
    frame = pd.read_parquet(tmp_path / "runs" / "diabetes" / "results.parquet")
    base = frame[frame["point"] == "base"].iloc[0]
    assert base["meter/r2"] > 0.2, "the network learned something"
    assert base["meter/latency_ms"] > 0
    smallest = frame.sort_values("meter/weight_bytes").iloc[0]
    assert smallest["meter/weight_bytes"] < base["meter/weight_bytes"]
    member = frame[frame["artifact"].notna()].iloc[-1]
    model = kmr.load(tmp_path / "runs" / "diabetes" / member["artifact"], trusted_modules=["my_model"])
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_the_search_alone_finds_a_front(capsys) -> None:
    exec(block("python", "evaluate=lambda"), {})
    assert "ProposalCounts(complete=20" in capsys.readouterr().out


def test_a_model_is_compressed_without_a_config() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(384, 8)
    targets = (inputs[:, 0] > 0).long()
    train, validation = Split((inputs[:256], targets[:256])), Split((inputs[256:], targets[256:]))
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    model = FineTune(data=train, epochs=20)(model)
    names = {"model": model, "train": train, "validation": validation}
    exec(block("python", "sweeps import Compression"), names)
    found, smallest = names["found"], names["smallest"]
    assert found.counts.complete == 12
    assert all(trial.readings["bytes"] <= 2000 for trial in found.front)
    meters = (*names["costs"], *names["qualities"])
    assert {name: reading.value for name, reading in measure(smallest, meters).items()} == found.front[0].readings


def test_every_experiment_command_in_the_readme_names_an_experiment_there_is() -> None:
    own = {path.stem for path in (README.parent / "conf" / "exp").glob("*.yaml")} | {"diabetes"}
    named = set(re.findall(r"\+exp=(\w+)", README.read_text()))
    assert named <= own
    assert "quickstart" in named
