"""A study is continued by the code that made it, or its later trials are marked."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from small import sweep, table

from sweeps.experiment.study_code import code_changes
from sweeps.search.study.attributes import CODE
from sweeps.views.run_folder import open_run

RULE = """
from dataclasses import dataclass

import torch
from kmr.core import FloatRange, Knob, Rule
from a_users_helper import factor, unused


@dataclass(frozen=True, kw_only=True)
class Shrink(Rule):
    name: str = "shrink"

    @property
    def knobs(self):
        return (Knob(f"{self.name}.by", FloatRange(0.0, 0.5, neutral=0.0)),)

    def apply(self, model, knob, value):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor(value))
        return model
"""
HELPER = "def factor(value):\n    return 1 - value\n\n\ndef unused():\n    return 1\n"
SHRINK = "+rules.shrink={_target_: a_users_rule.Shrink}"
OWN = ["rule=[]", "~space.structured", "~space.lowrank", "~space.quantize", SHRINK]
TRUST = "trusted_modules=[a_users_rule,a_users_helper]"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Sweep with a rule and a helper of a user's, written afresh."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(*overrides: str, rule: str = RULE, helper: str = HELPER) -> tuple[int, str]:
        (tmp_path / "a_users_rule.py").write_text(rule)
        (tmp_path / "a_users_helper.py").write_text(helper)
        for name in ("a_users_rule", "a_users_helper"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return sweep(tmp_path, TRUST, *OWN, *overrides)

    return run


def study_in(folder: Path) -> optuna.Study:
    return open_run(folder / "small").study


def test_a_changed_helper_is_refused_by_name(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trials=1")[0] == 0
    assert run("trials=2", helper=HELPER.replace("1 - value", "1 - value / 2"))[0] == 2
    error = capsys.readouterr().err
    assert "study small was made with other code: a_users_helper.factor. " in error
    assert "accept_code_change=true" in error


def test_comments_docstrings_layout_and_unused_code_may_change(run: Run, tmp_path: Path) -> None:
    assert run("trials=1")[0] == 0
    helper = '"""Factors."""\n\ndef factor(value):\n    """Shrink."""\n    return (1\n            - value)  # less\n'
    assert run("trials=2", helper=helper + "def unused():\n    return 2\n")[0] == 0
    assert code_changes(study_in(tmp_path)) == ()


def test_trials_after_an_accepted_change_are_marked(run: Run, tmp_path: Path) -> None:
    other = HELPER.replace("1 - value", "1 - value / 2")
    assert run("trials=2")[0] == 0
    code, printed = run("trials=4", "accept_code_change=true", helper=other)
    assert code == 0
    said = "the code changed after 2 trials: a_users_helper.factor"
    assert said in printed
    frame = table(tmp_path)
    marked = frame["notes"].str.contains("made with changed code: a_users_helper.factor")
    assert sorted(frame.loc[marked, "trial"]) == [2, 3]
    assert open_run(tmp_path / "small").state.warnings == [said]
    assert run("trials=5", helper=other)[0] == 0, "accepted once"
    assert [str(change) for change in code_changes(study_in(tmp_path))] == [said]
    assert table(tmp_path)["notes"].str.contains("made with changed code").sum() == 3


def test_workers_mark_their_trials_too(run: Run, tmp_path: Path) -> None:
    assert run("trials=1")[0] == 0
    helper = HELPER.replace("1 - value", "1 - value / 2")
    assert run("trials=4", "workers=2", "accept_code_change=true", helper=helper)[0] == 0
    frame = table(tmp_path)
    later = frame[(frame["trial"] > 0) & (frame["state"] == "complete")]
    assert len(later) > 0
    assert later["notes"].str.contains("made with changed code").all()


def test_an_accepted_change_of_code_excuses_no_change_of_the_config(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("trials=1")[0] == 0
    assert run("trials=2", "seed=1", "accept_code_change=true", helper=HELPER.replace("1 -", "2 -"))[0] == 2
    assert "another config: seed was 0, is 1" in capsys.readouterr().err
    assert run("trials=2", helper=HELPER)[0] == 0, "nothing was accepted"


def test_another_version_of_a_library_is_other_code(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("trials=1")[0] == 0
    monkeypatch.setattr("kmr.cache.code.version_of", lambda name: "0.1")
    assert run("trials=2")[0] == 2
    assert "now 0.1)" in capsys.readouterr().err


def test_a_study_of_an_older_version_opens_and_is_watched_from_then_on(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as older:
        older.setattr("sweeps.experiment.open_study.CODE", "other")
        assert run("trials=1")[0] == 0
    assert CODE not in study_in(tmp_path).user_attrs
    assert run("trials=2")[0] == 0
    assert CODE in study_in(tmp_path).user_attrs
    assert run("trials=3", helper=HELPER.replace("1 -", "2 -"))[0] == 2
    assert "a_users_helper.factor" in capsys.readouterr().err


def test_trials_of_other_code_are_reused_only_where_that_is_accepted(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = HELPER.replace("1 - value", "1 - value / 2")
    wider = ["name=wider", "reuse=small", "+space.shrink.by={low: 0.0, high: 0.4}", "trials=3"]
    assert run("trials=2")[0] == 0
    assert run(*wider, helper=other)[0] == 2
    assert "reuse=small: that study was made with other code: a_users_helper.factor" in capsys.readouterr().err
    assert run(*wider, "accept_code_change=true", helper=other)[0] == 0
    assert len(open_run(tmp_path / "wider").state.code_changes) == 1
