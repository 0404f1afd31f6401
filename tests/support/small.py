"""A sweep over the digits that is small enough to run in seconds."""

import io
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_module
from rich.console import Console

from sweeps.run import run

SMALL = [
    "+exp=quickstart", "name=small", "trials=4", "model.width=4", "train.epochs=2", "finetune.epochs=0.3", "threads=1",
    "anchors=2", "noise.resamples=20", "report.images=false", "tracking.enabled=false",
]  # fmt: skip
TRIALS = 9
"""All the anchors and no more, so that what is tried does not depend on who is first, nor on when one is killed."""


def sweep(folder: Path, *overrides: str) -> tuple[int, str]:
    """Run a sweep in this process; return its exit code and what it printed."""
    argv = [*SMALL, f"output_dir={folder}", *overrides]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=argv)
    console = Console(file=io.StringIO(), width=200, record=True)
    code = run(config, argv, console)
    return code, console.export_text()


def table(folder: Path, name: str = "small") -> pd.DataFrame:
    """Read the results of a sweep."""
    return pd.read_parquet(folder / name / "results.parquet")


def measured(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the bytes and the accuracy of every model of a sweep, by its sequence."""
    frame = table(folder)
    frame = frame[frame["state"] == "complete"]
    return {row["sequence"]: (row["meter/weight_bytes"], row["meter/accuracy"]) for _, row in frame.iterrows()}
