"""What goes wrong in one place stays there: other trials, the report and a resume go on."""

import json
import sys
from pathlib import Path

import pytest
from small import sweep, table

import kmr

CODE = """
from dataclasses import dataclass, field

import torch
from kmr.core import FloatRange, Knob, Quality, Reading, Rule
from sweeps.examples.digits import digits


@dataclass(frozen=True, kw_only=True)
class Odd(Rule):
    name: str = "odd"
    how: str = "bracket"

    @property
    def knobs(self):
        return (Knob(f"{self.name}.by", FloatRange(0.0, 1.0, neutral=0.0)),)

    def apply(self, model, knob, value):
        if self.how == "unsaveable":
            model.hidden.register_forward_hook(lambda module, inputs, output: output * (1 - value / 10))
            model.hidden.weight.data = model.hidden.weight.data[:, :1].clone()
            model.flatten.register_forward_hook(lambda module, inputs, output: output[:, :1])
            return model
        raise RuntimeError(f"a name in [/brackets] at {value}" if self.how == "bracket" else "always alike")


@dataclass(frozen=True, kw_only=True)
class Wild(Quality):
    unit: str = field(init=False, default="1")
    how: str = "stderr"

    def read(self, seen):
        return {"stderr": Reading(1.0, float("nan")), "none": None, "value": Reading(float("inf"))}[self.how]


def data(how="raise", **sizes):
    if how == "raise":
        raise KeyError("no such column")
    splits = digits(validation=100, test=100)
    if how == "test":
        splits["test"] = (splits["test"][0][:, :, :4], splits["test"][1])
    if how == "text":
        splits["train"] = (["a", "b"], ["c", "d"])
    return splits
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user's, trusted by the override returned."""
    (tmp_path / "odd_users_module.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "odd_users_module", raising=False)
    return "trusted_modules=[odd_users_module]"


def only(name: str, how: str) -> list[str]:
    """Replace the rules by one of the user's."""
    own = f"+rules.{name}={{_target_: odd_users_module.Odd, how: {how}}}"
    return ["rule=[]", "~space.structured", "~space.lowrank", "~space.quantize", own]


def one_line(capsys) -> str:
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


def test_a_torn_last_line_of_the_journal_is_cut_off_and_kept_aside(tmp_path) -> None:
    assert sweep(tmp_path, "trials=2")[0] == 0
    journal = tmp_path / "small" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker')
    code, printed = sweep(tmp_path, "trials=3")
    assert code == 0
    assert "2 finished before" in printed
    assert journal.with_suffix(".torn").read_bytes() == b'{"op_code": 4, "worker'
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_journal_damaged_elsewhere_is_named_with_its_line(tmp_path, capsys) -> None:
    assert sweep(tmp_path, "trials=1")[0] == 0
    journal = tmp_path / "small" / "journal.log"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], "garbage", *lines[1:]]) + "\n")
    assert sweep(tmp_path, "trials=2")[0] == 2
    assert "journal.log is damaged at line 2" in one_line(capsys)


def test_an_exhausted_grid_ends_the_sweep(tmp_path) -> None:
    fixed = ["space.lowrank.keep=null", "space.structured.ratio=null", "space.quantize.bits.values=[8,4]"]
    code, _ = sweep(tmp_path, "sampler=grid", "trials=10", *fixed)
    assert code == 0
    assert json.loads((tmp_path / "small" / "meta.json").read_text())["trials"]["asked"] == 2
    assert (tmp_path / "small" / "report.html").exists()


def test_markup_in_an_exception_is_printed_as_it_is(tmp_path, mine) -> None:
    code, printed = sweep(tmp_path, mine, *only("odd", "bracket"), "trials=3")
    assert code == 2, "no trial succeeded"
    assert "[/brackets]" in printed
    assert (table(tmp_path)["state"] == "failed").sum() == 3


def test_a_model_that_cannot_be_saved_is_not_on_the_front_and_costs_no_other(tmp_path, mine) -> None:
    code, printed = sweep(tmp_path, mine, *only("odd", "unsaveable"), "trials=2", "meter=[parameters,accuracy]",
                          "objectives=[parameters,accuracy]", "cache.enabled=false")  # fmt: skip
    assert code == 0
    assert "cannot be saved" in printed
    frame = table(tmp_path)
    unsaved = frame[frame["error"].fillna("").str.contains("cannot be saved")]
    assert len(unsaved) >= 1
    assert (unsaved["state"] == "failed").all()
    assert frame.loc[frame["artifact"].notna(), "point"].tolist() in ([], ["base"])


@pytest.mark.parametrize(
    ("how", "named"), [("stderr", "standard error of nan"), ("none", "NoneType"), ("value", "inf")]
)
def test_a_meter_that_reads_no_number_is_named(tmp_path, mine, capsys, how, named) -> None:
    own = f"+meters.wild={{_target_: odd_users_module.Wild, how: {how}}}"
    assert sweep(tmp_path, mine, own)[0] == 2
    error = one_line(capsys)
    assert "meter wild" in error
    assert named in error


@pytest.mark.parametrize(
    ("how", "named"), [("raise", "KeyError"), ("text", "data: "), ("test", "does not take the test data")]
)
def test_data_that_does_not_fit_is_named_before_anything_is_trained(tmp_path, mine, capsys, how, named) -> None:
    code, _ = sweep(tmp_path, mine, "data._target_=odd_users_module.data", f"+data.how={how}")
    captured = capsys.readouterr()
    assert code == 2
    assert named in captured.err
    assert "training the base model" not in captured.out
    assert len(captured.err.strip().splitlines()) == 1
    assert not (tmp_path / "small").exists(), "a failed start leaves no folder"


def test_a_failed_start_does_not_claim_the_name(tmp_path, mine, capsys) -> None:
    assert sweep(tmp_path, mine, "+meters.wild={_target_: odd_users_module.Wild}")[0] == 2
    assert sweep(tmp_path, "trials=1")[0] == 0


def test_a_damaged_artifact_is_made_again_and_a_users_folder_is_left_alone(tmp_path) -> None:
    assert sweep(tmp_path, "trials=3")[0] == 0
    front = tmp_path / "small" / "front"
    members = sorted(path for path in front.iterdir() if path.name != "base")
    (members[0] / "model.safetensors").write_bytes(b"damaged")
    (front / "mine").mkdir()
    (front / "mine" / "precious.txt").write_text("keep me")
    assert sweep(tmp_path, "trials=3")[0] == 0
    assert sum(parameter.numel() for parameter in kmr.load(members[0]).parameters()) > 0
    assert (front / "mine" / "precious.txt").read_text() == "keep me"


def test_a_damaged_cache_of_the_base_model_is_trained_again(tmp_path, capsys) -> None:
    assert sweep(tmp_path, "trials=1")[0] == 0
    cached = next((tmp_path / ".cache").glob("base-*.safetensors"))
    cached.write_bytes(b"damaged")
    assert sweep(tmp_path, "trials=2")[0] == 0
    assert "training again" in capsys.readouterr().out


def test_a_budget_that_nothing_meets_is_said_last_and_once(tmp_path, capsys) -> None:
    bits_alone = ("space.structured.ratio=null", "space.lowrank.keep=null")
    code, printed = sweep(tmp_path, "trials=1", "+limits.weight_bytes=10", *bits_alone)
    assert code == 2
    assert "no model on the front is within the limits: weight_bytes 10" in printed
    assert (tmp_path / "small" / "report.html").is_file()
    error = one_line(capsys)
    assert error.startswith("error: no trial could be run: ")
    assert "found no new vector within the limits; the smallest found: weight_bytes" in error
    assert "the smallest found" not in printed


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["+limits.weight_bytes=nan"], "limits.weight_bytes"),
        (["+reference.weight_bytes=0"], "reference must be"),
        (["threads=0"], "threads"),
        (["policy_max_moves=0"], "policy_max_moves"),
        (["on_no_progress=stop"], "on_no_progress"),
        (["space.quantize.bits.values=8"], "must be a list"),
        (["space.structured.ratio.log=true"], "structured.ratio"),
        (["rule=[]"], "no rules"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(tmp_path, capsys, overrides, named) -> None:
    if overrides == ["space.structured.ratio.log=true"]:
        overrides = ["+space.structured.ratio.log=true"]
    assert sweep(tmp_path, *overrides)[0] == 2
    assert named in one_line(capsys)


def test_hydras_own_errors_are_one_line(tmp_path, monkeypatch, capsys) -> None:
    from sweeps.run import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweeps.run", "+exp=quickstat"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "quickstart" in one_line(capsys), "the experiments there are, are named"
    assert not (Path(tmp_path) / "outputs").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rule=[strctured]", "there is no rule/strctured: did you mean structured? There are adapters, "),
        (
            "meter=[neg_cross_entropy]",
            "there is no meter/neg_cross_entropy: neg_cross_entropy is now cross_entropy, lower",
        ),
        ("+criterion=taylr", "there is no criterion/taylr: did you mean taylor? There are geometric_median, "),
        ("trails=3", "the config has no entry trails: did you mean trials?"),
        ("+budget.weight_bytes=20000", "the config has no entry budget: it is now limits"),
        ("budget.weight_bytes=20000", "the config has no entry budget: it is now limits"),
        ("bound_margin=0.1", "the config has no entry bound_margin any more: remove it"),
        ("+bound_margin=0.1", "the config has no entry bound_margin any more: remove it"),
        ("policy_space={budget: {low: 0.1}}", "To append to your config use +policy_space={budget: {low: 0.1}}"),
        ("finetune.optimizer.rate=3", "Could not override 'finetune.optimizer.rate'"),
    ],
)
def test_what_is_not_in_the_config_is_named_with_what_is(tmp_path, monkeypatch, capsys, override, said) -> None:
    from sweeps.run import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweeps.run", "+exp=quickstart", override])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in one_line(capsys)


def test_what_is_taken_out_of_the_config_has_its_default(tmp_path) -> None:
    code, said = sweep(tmp_path, "~space", "rule=[prune]", "trials=1", "noise.seconds=0")
    assert code == 0
    assert "searching prune.sparsity" in said


def test_options_of_the_users_own_folder_are_listed_too(tmp_path, monkeypatch, capsys) -> None:
    from sweeps.sensitivity import main

    (tmp_path / "mine" / "rule").mkdir(parents=True)
    (tmp_path / "mine" / "rule" / "folding.yaml").write_text("a: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--config-dir", "mine", "+exp=quickstart", "rule=[foldin]"])
    with pytest.raises(SystemExit):
        main()
    assert "did you mean folding?" in one_line(capsys)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+rules.structured.scop=layer", "takes no scop: did you mean scope? There are "),
        ("+rules.folding.ratio=0.5", "the experiment has no rules.folding: there are structured, lowrank, quantize"),
        ("+meters.acuracy.k=2", "the experiment has no meters.acuracy: did you mean accuracy? There are "),
    ],
)
def test_settings_of_nothing_there_is_are_refused(tmp_path, capsys, override, said) -> None:
    assert sweep(tmp_path, override)[0] == 2
    assert said in one_line(capsys)


def test_an_entry_the_config_does_not_have_is_refused_with_the_one_that_is_near(tmp_path, capsys) -> None:
    code, _ = sweep(tmp_path, "+trails=8")
    assert code == 2
    assert "the config has no entry trails: did you mean trials?" in capsys.readouterr().err


def test_wrong_rungs_are_refused_before_anything_is_tried(tmp_path, capsys) -> None:
    code, _ = sweep(tmp_path, "halving={fidelities: [0.25]}")
    assert code == 2
    assert "fidelities must rise" in capsys.readouterr().err
    assert not (tmp_path / "small" / "results.parquet").exists()
