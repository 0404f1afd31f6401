"""Algorithm 10 end to end: the composed experiment runs under every policy of `conf/policy`."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from rich.console import Console

import conf
from sweeps.run import run

POLICIES = sorted(path.stem for path in (Path(conf.__file__).parent / "policy").glob("*.yaml"))
SMALL = [
    "+exp=paper_composed", "name=small", "trials=1", "model.width=4", "train.epochs=2", "finetune.epochs=0.2",
    "policy_space.budget={low: 0.5, high: 0.6}", "tracking.enabled=false", "report.images=false",
    "noise.seconds=0.1",
]  # fmt: skip


def ran(folder: Path, *overrides: str) -> pd.DataFrame:
    argv = [*SMALL, f"output_dir={folder}", *overrides]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=argv)
    console = Console(file=io.StringIO(), width=200, record=True)
    assert run(config, argv, console) == 0, console.export_text()
    return pd.read_parquet(folder / "small" / "results.parquet")


def moves(table: pd.DataFrame) -> list[tuple[str, float]]:
    return [tuple(move) for move in json.loads(table.sort_values("step")["sequence"].iloc[-1])]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_lowers_the_bytes_with_each_move_and_stays_in_the_space(policy: str, tmp_path: Path) -> None:
    table = ran(tmp_path, f"policy={policy}")
    size = table.sort_values("step")["meter/weight_bytes"]
    assert len(size) >= 2
    assert size.is_monotonic_decreasing
    assert size.iloc[-1] <= 0.6 * size.iloc[0]
    for knob, value in moves(table):
        allowed = {
            "structured.ratio": value <= 0.6,
            "lowrank.keep": value == 0.6,
            "quantize.bits": value in (8, 6, 4, 3, 2),
        }
        assert allowed[knob]


def test_the_order_of_the_rules_is_a_parameter_to_search(tmp_path: Path) -> None:
    order = ["+policy.levels=1", "+policy.interleaved=false", "+policy_space.order={values: legal}"]
    table = ran(tmp_path, "policy=scheduled", "trials=4", *order)
    first = {json.loads(sequence)[0][0] for sequence in table.loc[table["step"] == 1, "sequence"]}
    assert len(first) > 1, "trials begin with different rules"
