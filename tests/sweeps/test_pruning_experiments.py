"""The recipes of when to prune, run for two trials each."""

import io
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from rich.console import Console

from sweeps.run import run

COMMON = ["model.width=4", "trials=2", "tracking.enabled=false", "report.images=false"]


@pytest.mark.parametrize(
    ("experiment", "overrides", "trained"),
    [
        ("digits_prune_before", ["finetune.epochs=1"], True),
        ("digits_prune_after", ["train.epochs=1"], False),
        ("digits_prune_after", ["train.epochs=1", "finetune=sgd", "finetune.epochs=0.3"], True),
    ],
)
def test_the_same_rules_before_training_and_after_with_and_without_more(
    experiment: str, overrides: list[str], trained: bool, tmp_path: Path
) -> None:
    argv = [f"+exp={experiment}", f"output_dir={tmp_path}", *COMMON, *overrides]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=argv)
    console = Console(file=io.StringIO(), width=200, record=True)
    assert run(config, argv, console) == 0, console.export_text()
    table = pd.read_parquet(tmp_path / experiment / "results.parquet")
    moved = table[table["step"] > 0]
    assert len(moved) >= 1
    assert not moved["meter/accuracy"].isna().any()
    steps = moved["seconds/finetune"].max()
    assert (steps > 0.005) == trained
