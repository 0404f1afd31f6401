import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from rich.console import Console
from small import SMALL, sweep

from analysis.sensitivity import LayerGroup
from kmr.core import Choice, FloatRange, IntRange
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from sweeps.errors import SweepError
from sweeps.experiment.first_trials import first_trials
from sweeps.sensitivity import run, vectors


def scanned(folder: Path, *overrides: str) -> tuple[int, str, pd.DataFrame]:
    argv = [*SMALL, f"output_dir={folder}", *overrides]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=argv)
    console = Console(file=io.StringIO(), width=200, record=True)
    code = run(config, argv, console)
    return code, console.export_text(), pd.read_csv(folder / "small" / "sensitivity" / "sensitivity.csv")


def test_a_scan_measures_each_layer_resumes_and_begins_a_study(tmp_path: Path) -> None:
    code, text, table = scanned(tmp_path, "sensitivity.values=[0.25,0.75]")
    assert code == 0
    assert list(dict.fromkeys(table["layer"])) == ["stage1.0", "stage2.0", "stage3.0", "hidden"]
    assert sorted(table["value"].unique()) == [0.25, 0.75]
    assert table["lost"].between(-1, 1).all()
    assert (table["cost/parameters"] > 0).all()
    by_value = table.groupby("value")["cost/parameters"].mean()
    assert by_value[0.75] < by_value[0.25]
    folder = tmp_path / "small" / "sensitivity"
    assert (folder / "sensitivity.html").stat().st_size > 1000

    path = folder / "scan.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])  # as a kill leaves it
    code, text, again = scanned(tmp_path, "sensitivity.values=[0.25,0.75]")
    assert "8 cuts by structured, 5 known" in text
    pd.testing.assert_frame_equal(table, again)

    seeds = json.loads((folder / "first_trials.json").read_text())
    assert seeds
    code, _ = sweep(
        tmp_path, "trials=1", "name=grouped", "anchors=0", "space.lowrank.keep=null", "space.quantize.bits=null",
        f"hydra.searchpath=[file://{folder / 'conf'}]", "+seed=groups",
    )  # fmt: skip
    assert code == 0
    first = pd.read_parquet(tmp_path / "grouped" / "results.parquet").query("trial == 0").iloc[-1]
    tried = {name: first[f"knob/{name}"] for name in seeds[0] if first.get(f"knob/{name}", 0) > 0}
    assert tried.keys() == {name for name, value in seeds[0].items() if value > 0}


def test_bits_are_scanned_grouped_and_searched_too(tmp_path: Path) -> None:
    code, text, table = scanned(tmp_path, "sensitivity.rule=quantize", "sensitivity.levels=3", "sensitivity.groups=2")
    assert code == 0
    assert set(table["rule"]) == {"quantize"}
    assert len(table["value"].unique()) == 3
    assert "search  python -m sweeps.run" in text
    folder = tmp_path / "small" / "sensitivity"
    seeds = json.loads((folder / "first_trials.json").read_text())
    assert all(vector.keys() == {"quantize.bits@g1", "quantize.bits@g2"} for vector in seeds)
    assert all(isinstance(bits, int) for vector in seeds for bits in vector.values())
    code, printed = sweep(
        tmp_path, "trials=2", "name=grouped", "anchors=0", "space.lowrank.keep=null", "space.structured.ratio=null",
        f"hydra.searchpath=[file://{folder / 'conf'}]", "+seed=groups",
    )  # fmt: skip
    assert code == 0, printed
    frame = pd.read_parquet(tmp_path / "grouped" / "results.parquet")
    assert {column for column in frame if column.startswith("knob/")} == {
        "knob/quantize.bits@g1",
        "knob/quantize.bits@g2",
    }
    assert "quantize.bits@g1 one of 32, 8, 6, 5, 4, 3, 2" in printed, "the space of a setting is that of its groups"
    first = frame.query("trial == 0").iloc[-1]
    searched = [32, 8, 6, 5, 4, 3, 2]
    nearest = {name: min(searched, key=lambda value: abs(value - bits)) for name, bits in seeds[0].items()}
    assert {name: first.fillna(32)[f"knob/{name}"] for name in seeds[0]} == nearest


def test_a_group_has_the_bits_that_its_layers_bear() -> None:
    groups = [LayerGroup("g1", ("a",), {8.0: 0.0, 4.0: 0.0}), LayerGroup("g2", ("b",), {8.0: 0.0, 4.0: 0.4})]
    rule = WeightQuantization(name="quantize")
    assert vectors(groups, rule.knobs[0], rule, 1) == [{"quantize.bits@g1": 4, "quantize.bits@g2": 8}]
    nothing = [LayerGroup("g1", ("a",), {8.0: 0.1, 4.0: 0.4})]
    assert vectors(nothing, rule.knobs[0], rule, 1) == [{"quantize.bits@g1": 8}]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sensitivity.rule=nothing", "structured, lowrank, quantize"),
        ("sensitivity.quality=neg_ece", "neg_ece is now ece, lower is better"),
        (
            "sensitivity.quality=top1",
            "sensitivity.quality=top1 is not a quality of the experiment: there are accuracy, ",
        ),
        ("sensitivity.groups=21", "sensitivity.groups must be between 1 and 20, not 21"),
        ("sensitivity.groups=0", "sensitivity.groups must be between 1 and 20, not 0"),
    ],
)
def test_a_setting_that_is_wrong_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    argv = [*SMALL, f"output_dir={tmp_path}", setting]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=argv)
    assert run(config, argv, Console(file=io.StringIO())) == 2
    assert message in capsys.readouterr().err


def test_vectors_take_from_each_group_what_it_bears() -> None:
    groups = [LayerGroup("g1", ("a",), {0.25: 0.0, 0.5: 0.0}), LayerGroup("g2", ("b",), {0.25: 0.0, 0.5: 0.4})]
    rule = StructuredPruning(name="structured", example_inputs=torch.zeros(1, 4))
    (vector,) = vectors(groups, rule.knobs[0], rule, 1)
    assert vector["structured.ratio"] == 0.25
    left = (1 - vector["structured.ratio"]) * (1 - vector["structured.extra@g1"])
    assert left == pytest.approx(0.5)
    assert vector["structured.extra@g2"] == 0


def test_first_trials_are_the_nearest_that_are_searched(tmp_path: Path) -> None:
    space = {
        "ratio": FloatRange(0.0, 0.8, neutral=0.0, step=0.25), "bits": Choice((32, 8, 4), neutral=32),
        "width": IntRange(2, 8, neutral=8),
    }  # fmt: skip
    path = tmp_path / "first.json"
    path.write_text(json.dumps([{"ratio": 0.9, "bits": 5}, {"ratio": 0.1, "width": 3.4}, {"ratio": 0.05, "width": 3}]))
    assert first_trials(str(path), space) == [
        {"ratio": 0.75, "bits": 4, "width": 8}, {"ratio": 0.0, "bits": 32, "width": 3}
    ]  # fmt: skip
    path.write_text('[{"depth": 1}]')
    with pytest.raises(SweepError, match="depth, not in the search space"):
        first_trials(str(path), space)
    path.write_text("{}")
    with pytest.raises(SweepError, match="a list of knob vectors"):
        first_trials(str(path), space)
    with pytest.raises(SweepError, match="cannot be read"):
        first_trials(str(tmp_path / "none.json"), space)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
@pytest.mark.parametrize("knob", ["ratio", "bits", "width"])
def test_a_first_trial_with_a_number_that_is_not_finite_is_named(tmp_path: Path, knob: str, number: str) -> None:
    space = {
        "ratio": FloatRange(0.0, 0.8, neutral=0.0), "bits": Choice((32, 8, 4), neutral=32),
        "width": IntRange(2, 8, neutral=8),
    }  # fmt: skip
    path = tmp_path / "first.json"
    path.write_text(f'[{{}}, {{"{knob}": {number}}}]')
    value = str(json.loads(number))
    with pytest.raises(SweepError, match=f"{path}: {knob} of trial 1 must be a finite number, not {value}"):
        first_trials(str(path), space)
