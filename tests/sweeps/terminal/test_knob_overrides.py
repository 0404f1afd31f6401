"""A knob that is set among a rule's arguments is answered with the place where knobs are set."""

import sys
from pathlib import Path

import pytest
import yaml
from contracts import RULES
from omegaconf import OmegaConf

import conf
from sweeps.errors import SweepError
from sweeps.run import main
from sweeps.terminal.knob_overrides import check_knobs

KNOBS = {
    "adapters": "trainable", "cluster": "bits", "depth": "ratio", "distil": "width", "dynamic": "bits",
    "exits": "threshold", "gate": "closed", "geta": "bops", "gradual": "sparsity", "joint": "target", "lowrank": "keep",
    "pattern": "nonzero", "prune": "sparsity", "quantize": "bits", "recover": "by", "share": "ratio",
    "share_blocks": "ratio", "static": "bits", "structured": "ratio", "tensor": "keep", "ticket": "sparsity",
}  # fmt: skip


def config(name: str, **space: object):
    entry = yaml.safe_load((Path(conf.__file__).parent / "rule" / f"{name}.yaml").read_text())
    return OmegaConf.create({"rules": {name: entry}, "space": space, "trusted_modules": []})


def test_every_rule_has_a_knob_here() -> None:
    assert sorted(KNOBS) == RULES


@pytest.mark.parametrize("name", KNOBS)
def test_the_knob_of_every_rule_is_known_without_data(name: str) -> None:
    setting = f"{name}.{KNOBS[name]}"
    with pytest.raises(SweepError, match=rf"is a knob: set \+space\.{setting}=0\.5$"):
        check_knobs(config(name), [f"rules.{setting}=0.5"])
    with pytest.raises(SweepError, match=rf"is a knob: set space\.{setting}=0\.5$"):
        check_knobs(config(name, **{name: {KNOBS[name]: {"low": 0}}}), [f"+rules.{setting}=0.5"])


@pytest.mark.parametrize(
    "word", ["rules.geta.bits=[2,8]", "rules.geta.no_such=1", "rules.prune.sparsity=1", "trials=4", "space.geta.bops=1"]
)
def test_arguments_and_names_that_are_no_knob_pass(word: str) -> None:
    before = config("geta")
    check_knobs(before, [word])
    assert before == config("geta")


@pytest.mark.parametrize("sign", ["", "+"])
def test_the_command_line_says_it_in_one_line_before_anything_is_trained(sign, tmp_path, monkeypatch, capsys) -> None:
    override = f"{sign}rules.quantize.bits=4"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweeps.run", "+exp=quickstart", override])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {override}: bits is a knob: set space.quantize.bits=4\n"
    assert printed.out == ""
