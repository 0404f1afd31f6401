"""The README's own example runs as it is written there."""

import io
import sys
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from pages import ROOT, block, commands
from rich.console import Console

import conf
import kmr
from sweeps.run import run

README = ROOT / "README.md"


def test_a_users_model_from_outside_the_checkout_runs(tmp_path, monkeypatch) -> None:
    python, yaml = block(README, "python", "load_diabetes"), block(README, "yaml", "my_model.build")
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


def test_the_two_commands_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "make run " in README.read_text()
    assert "make test " in README.read_text()
    assert ["python", "-m", "sweeps.run", "+exp=quickstart", "trials=120"] in commands(README)
    assert "$(BIN)/python -m sweeps.run +exp=$(EXP)" in makefile
    assert "EXP ?= quickstart" in makefile
