"""A model that is made again has its own readings."""

import os
import shutil
import sys
from dataclasses import dataclass, field

import pytest
from small import sweep, table
from tiny import Halve, Mean, Total, run, study_of, sweep_of, tiny_experiment

from kmr.artifact import folder as artifact
from kmr.core import Cost, Reading
from sweeps.experiment.remade import Agreement, Remade, compare, differences, keep_remade, kept_remade
from sweeps.search.study.attributes import TEST, by_point, keep_for_point
from sweeps.search.study.point import Point, identifier
from sweeps.views.mlflow.study_note import study_note
from sweeps.views.run_folder import open_run

DRIFT = [0.0]


@dataclass(frozen=True, kw_only=True)
class Drifting(Halve):
    """Halves by an amount that no seed decides."""

    def apply(self, model, knob, value):
        return super().apply(model, knob, float(value) + DRIFT[0])


@dataclass(frozen=True, kw_only=True)
class Latency(Cost):
    name: str = "latency"
    unit: str = field(init=False, default="ms/sample")

    def read(self, seen) -> Reading:
        return Reading(1.0)


@pytest.fixture(autouse=True)
def no_drift():
    DRIFT[0] = 0.0


@pytest.mark.parametrize(
    ("meter", "first", "again", "how"),
    [
        (Mean(name="mean"), Reading(0.5), Reading(0.5), Agreement.SAME),
        (Mean(name="mean"), Reading(0.5), Reading(0.5 + 1e-8), Agreement.ROUNDING),
        (Mean(name="mean"), Reading(0.5, 0.02), Reading(0.51, 0.01), Agreement.WITHIN_NOISE),
        (Mean(name="mean"), Reading(0.5, 0.02), Reading(0.53, 0.02), Agreement.DIFFERS),
        (Mean(name="mean"), Reading(0.5), Reading(0.501), Agreement.DIFFERS),
        (Total(name="total"), Reading(20_000_000), Reading(20_000_001), Agreement.DIFFERS),
        (Total(name="total"), Reading(20.0, 5.0), Reading(21.0, 5.0), Agreement.DIFFERS),
        (Latency(), Reading(1.0), Reading(2.0), Agreement.TIMING),
    ],
)
def test_readings_agree_exactly_or_up_to_what_their_kind_allows(meter, first, again, how) -> None:
    assert compare(meter, first, again) == how


def test_a_member_made_again_exactly_is_the_model_measured(tmp_path) -> None:
    experiment = tiny_experiment(rules=(Drifting(name="first"),))
    study = study_of(experiment)
    before, _, _ = run(experiment, study, tmp_path, 4)
    members = before.front.members
    shutil.rmtree(tmp_path / "front")
    again = sweep_of(experiment, study, tmp_path)
    again.saved.save_missing()
    assert again.saved.remade == {}
    assert again.front.members == members
    assert {path.name for path in (tmp_path / "front").iterdir()} == set(members)


def test_a_member_made_again_as_another_model_has_the_readings_of_that_model(tmp_path) -> None:
    experiment = tiny_experiment(rules=(Drifting(name="first"),))
    study = study_of(experiment)
    before, _, _ = run(experiment, study, tmp_path, 4)
    lost = next(name for name in before.front.members if name != "base")
    first = next(p for r in before.records for p in r.points if identifier(r.number, p.step) == lost)
    shutil.rmtree(tmp_path / "front" / lost)
    DRIFT[0] = 0.125
    sweep_now = sweep_of(experiment, study, tmp_path)
    sweep_now.saved.save_missing()
    made = sweep_now.saved.remade[lost]
    assert made.beyond_noise == ["total", "mean"]
    readings = artifact.read(tmp_path / "front" / lost).readings
    model = artifact.load(tmp_path / "front" / lost, base=experiment.model)
    assert readings["mean"].value == Mean(name="mean")(model).value == made.readings["mean"][0]
    assert readings["mean"].value != first.readings["mean"][0]
    assert tuple(sweep_now.front.values[sweep_now.front.members.index(lost)]) == (
        made.readings["total"][0], made.readings["mean"][0],
    )  # fmt: skip
    resumed = sweep_of(experiment, study, tmp_path)
    assert resumed.front.values != sweep_now.front.values, "its readings are not yet in the study"
    keep_remade(study, sweep_now.saved.remade)
    assert kept_remade(study) == {lost: made}


def test_one_that_comes_out_right_in_the_end_is_marked_no_longer(tmp_path) -> None:
    experiment = tiny_experiment(rules=(Drifting(name="first"),))
    study = study_of(experiment)
    run(experiment, study, tmp_path, 3)
    for drift in (0.125, 0.0):
        shutil.rmtree(tmp_path / "front")
        DRIFT[0] = drift
        now = sweep_of(experiment, study, tmp_path)
        now.saved.save_missing()
        assert bool(now.saved.remade) == (drift > 0)


def test_what_was_measured_of_the_first_model_is_measured_again() -> None:
    study = study_of(tiny_experiment())
    for name in ("1.1", "2.1"):
        keep_for_point(study, TEST, name, {"mean": {"value": 1.0, "stderr": None}})
    keep_remade(study, {"1.1": Remade({"mean": [0.5, None]}, ["mean"], ["mean"])})
    assert list(by_point(study, TEST)) == ["2.1"]


def test_a_note_names_both_readings_and_whether_noise_explains_them() -> None:
    first = Point(1, [["first.by", 0.5]], {"mean": [0.5, 0.02], "total": [3.0, None]})
    meters = (Total(name="total"), Mean(name="mean"))
    near = differences(meters, first.to_readings(), {"total": Reading(3.0), "mean": Reading(0.51, 0.02)})
    far = differences(meters, first.to_readings(), {"total": Reading(2.0), "mean": Reading(0.51, 0.02)})
    assert near is not None
    assert far is not None
    assert near.note(first) == (
        "made again with readings that differ within their standard error: mean 0.5100 ± 0.0200, first 0.5000 ± 0.0200"
    )
    assert far.note(first) == "made again as another model: total 2, first 3"
    assert far.instead_of(first).readings == {"mean": [0.51, 0.02], "total": [2.0, None]}


RULE = """
import os
from dataclasses import dataclass

import torch
from kmr.core import FloatRange, Knob, Rule


@dataclass(frozen=True, kw_only=True)
class Unseeded(Rule):
    name: str = "unseeded"

    @property
    def knobs(self):
        return (Knob(f"{self.name}.by", FloatRange(0.0, 1.0, neutral=0.0)),)

    def apply(self, model, knob, value):
        random = torch.Generator().manual_seed(int(os.environ["UNSEEDED"]))
        with torch.no_grad():
            weight = model.hidden.weight
            keep = max(1, int(weight.shape[0] * (1 - value)))
            weight[torch.randperm(weight.shape[0], generator=random)[keep:]] = 0
        return model
"""


def test_every_view_says_that_a_member_is_another_model(tmp_path, monkeypatch) -> None:
    (tmp_path / "an_unseeded_rule.py").write_text(RULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(os.environ, "UNSEEDED", "1")
    own = ["trusted_modules=[an_unseeded_rule]", "rule=[]", "~space.structured", "~space.lowrank", "~space.quantize",
           "+rules.unseeded={_target_: an_unseeded_rule.Unseeded}", "meter=[nonzero_parameters,accuracy,cross_entropy]",
           "objectives=[nonzero_parameters,cross_entropy]", "cache.enabled=false", "trials=3"]  # fmt: skip
    assert sweep(tmp_path, *own)[0] == 0
    opened = open_run(tmp_path / "small")
    lost = [name for name in opened.front.members if name != "base"]
    assert lost
    first = {name: opened.state.points[name] for name in lost}
    for name in lost:
        shutil.rmtree(tmp_path / "small" / "front" / name)
    monkeypatch.setitem(os.environ, "UNSEEDED", "2")
    code, printed = sweep(tmp_path, *own)
    assert code == 0
    state = open_run(tmp_path / "small").state
    assert state.remade
    assert set(state.remade) <= set(lost)
    frame = table(tmp_path).set_index("point")
    for name, how in state.remade.items():
        assert f"{name} was {how}" in printed
        assert how in frame.loc[name, "notes"]
        assert how in study_note(state, open_run(tmp_path / "small").front, (), tmp_path)
        saved = tmp_path / "small" / "front" / name
        if saved.is_dir():
            assert artifact.read(saved).readings["cross_entropy"].value == frame.loc[name, "meter/cross_entropy"]
        assert frame.loc[name, "meter/cross_entropy"] != first[name].readings["cross_entropy"][0]
    assert "made again" in sweep(tmp_path, *own)[1], "said as long as it is so"
