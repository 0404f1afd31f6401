"""Channels and bits learned under a budget, searched over budgets for two trials."""

import io
import json
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_module
from rich.console import Console

from sweeps.run import run


def test_a_sweep_over_budgets_meets_each_of_them(tmp_path: Path) -> None:
    argv = [
        "+exp=digits_geta", f"output_dir={tmp_path}", "model.width=4", "trials=2", "train.epochs=1",
        "rules.geta.recipe.epochs=1", "tracking.enabled=false", "report.images=false",
    ]  # fmt: skip
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=argv)
    console = Console(file=io.StringIO(), width=200, record=True)
    assert run(config, argv, console) == 0, console.export_text()
    table = pd.read_parquet(tmp_path / "digits_geta" / "results.parquet")
    assert set(table["state"]) == {"complete"}
    base = table.loc[table["step"] == 0, "meter/bops"].iloc[0]
    moved = table[table["step"] == 1]
    assert len(moved) >= 1
    for _, row in moved.iterrows():
        [[knob, share]] = json.loads(row["sequence"])
        assert knob == "geta.bops"
        assert row["meter/bops"] <= share * base
