"""The noise stage: bootstrap against the formula, other seeds, and a budget that is kept."""

import math

import numpy as np
import optuna
import pytest
import torch
from torch import nn
from toy import Jitter, Numbers, Scale, Total, toy

from kmr.core import Instantiation, measure_base, run_sequence
from kmr.data import Data, Split
from kmr.finetune import FineTune
from kmr.meters import Accuracy, Agreement, MeanSquaredError
from sweeps.experiment.assessment.noise import (
    PointNoise,
    bootstrap_readings,
    kept_noise,
    measure_noise,
    other_seed,
    summary,
)
from sweeps.experiment.compression import Compression
from sweeps.experiment.config import Config, NoiseConfig
from sweeps.search.study.point import Point
from sweeps.views.run_folder import open_run


def classified(samples: int = 400, right: float = 0.8) -> Split:
    """Make inputs that are their own logits, of which a share is right."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (samples,), generator=generator)
    shown = torch.where(torch.rand(samples, generator=generator) < right, targets, (targets + 1) % 3)
    return Split((nn.functional.one_hot(shown, 3).float(), targets))


def test_the_spread_of_the_bootstrap_is_the_standard_error() -> None:
    meter = Accuracy(data=classified())
    reading = meter(nn.Identity())
    found = bootstrap_readings(nn.Identity(), [meter], 400, seed=1)["accuracy"]
    assert len(found) == 400
    assert np.mean(found) == pytest.approx(reading.value, abs=4 * reading.stderr / math.sqrt(400))
    assert np.std(found, ddof=1) == pytest.approx(reading.stderr, rel=0.15)


def test_all_models_are_read_on_the_same_samples() -> None:
    meter = Accuracy(data=classified())
    shifted = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        shifted.weight.copy_(torch.eye(3) * 2.0)
    assert bootstrap_readings(nn.Identity(), [meter], 20, 1) == bootstrap_readings(shifted, [meter], 20, 1)
    assert bootstrap_readings(nn.Identity(), [meter], 20, 1) != bootstrap_readings(nn.Identity(), [meter], 20, 2)


def test_what_a_meter_holds_of_another_model_is_resampled_with_it() -> None:
    split = classified()
    model = nn.Identity()
    assert set(bootstrap_readings(model, [Agreement(data=split, original=model)], 20, 1)["agreement"]) == {1.0}
    equal = bootstrap_readings(nn.Identity(), [Agreement(data=split, original=model)], 20, 1)["agreement"]
    assert min(equal) < max(equal) == 1.0, "400 agreements out of 400 leave a doubt"
    assert min(equal) > 1 - 4 / 401


def test_another_seed_moves_what_a_seed_decides_and_nothing_else(tmp_path) -> None:
    experiment = study_of(Jitter(seed=0), Scale())
    still = Point(1, [["scale.by", 0.5]], {})
    moved = Point(1, [["jitter.size", 0.5]], {})
    meters = experiment.instantiation.qualities
    assert other_seed(experiment, still, 1, meters) == {"mse": pytest.approx(0.25 / 3)}
    first, second = (other_seed(experiment, moved, extra, meters)["mse"] for extra in (1, 2))
    assert first != second
    assert first == other_seed(experiment, moved, 1, meters)["mse"]


def test_members_come_first_then_near_ones_and_nothing_is_read_twice(tmp_path) -> None:
    experiment = study_of(Scale(), noise=NoiseConfig(seconds=60, resamples=10, near=0.05))
    study = optuna.create_study(directions=["minimize", "minimize"])
    points = {name: made(experiment, value) for name, value in {"1.1": 0.5, "2.1": 0.49, "3.1": -0.9}.items()}
    points = {"base": Point.of(0, experiment.base), **points}
    assert measure_noise(experiment, study, points, ["base", "1.1"], tmp_path) == ()
    found = kept_noise(study)
    assert "3.1" not in found, "it costs more and is worse, beyond doubt"
    assert {"base", "1.1", "2.1"} == set(found)
    assert {len(noise.resamples["mse"]) for noise in found.values()} == {10}
    before = len(study.user_attrs)

    def never() -> bool:
        raise AssertionError("everything is known")

    measure_noise(experiment, study, points, ["base", "1.1"], tmp_path, may_go_on=never)
    assert len(study.user_attrs) == before


def test_nothing_is_begun_that_would_not_be_done_in_time(tmp_path) -> None:
    experiment = study_of(Scale(), noise=NoiseConfig(seconds=30, resamples=10, near=0.0, seeds=2))
    study = optuna.create_study(directions=["minimize", "minimize"])
    cheap, dear = made(experiment, 0.5), made(experiment, 0.49)
    dear.seconds["finetune"] = 1000.0
    said = measure_noise(experiment, study, {"1.1": cheap, "2.1": dear}, ["1.1", "2.1"], tmp_path)
    found = kept_noise(study)
    assert set(found) == {"1.1"}
    assert len(found["1.1"].seeds["mse"]) == 2
    assert said == ("noise: skipped 3 readings, which exceed noise.seconds=30",)


def test_no_budget_is_no_stage(tmp_path) -> None:
    experiment = study_of(Scale(), noise=NoiseConfig(seconds=0))
    study = optuna.create_study(directions=["minimize", "minimize"])
    assert measure_noise(experiment, study, {"base": Point.of(0, experiment.base)}, ["base"], tmp_path) == ()
    assert kept_noise(study) == {}


def test_a_model_that_does_not_come_out_the_same_is_left_out(tmp_path) -> None:
    experiment = study_of(Scale(), noise=NoiseConfig(seconds=60, resamples=10))
    study = optuna.create_study(directions=["minimize", "minimize"])
    point = made(experiment, 0.5)
    point.readings["mse"] = [0.01, 0.001]
    (said,) = measure_noise(experiment, study, {"1.1": point}, ["1.1"], tmp_path)
    assert "1.1 was not re-measured" in said
    assert "made again as another model: mse 0.0833 ± 0.0000, first 0.0100 ± 0.0010" in said


def test_columns_say_what_was_found() -> None:
    noise = PointNoise({"accuracy": [0.8, 0.9, 1.0]}, {"accuracy": [0.7, 0.9]})
    assert summary(noise) == pytest.approx(
        {"bootstrap_stderr/accuracy": 0.1, "seed_mean/accuracy": 0.8, "seeds": 2.0, "seed_sd/accuracy": math.sqrt(0.02)}
    )


def test_a_sweep_reads_its_front_again_and_says_how_sure_it_is(ran) -> None:
    opened = open_run(ran)
    assert set(opened.front.members) <= set(opened.state.noise)
    frame = opened.table().frame.set_index("point")
    on_front = frame.loc[list(opened.front.members)]
    assert on_front["p_front"].between(0, 1).all()
    assert on_front["bootstrap_stderr/accuracy"].notna().all()
    assert frame.loc[frame["state"] == "complete", "p_front"].notna().all()


class _Study:
    """What the stage reads of an experiment, over a model of three numbers."""

    def __init__(self, instantiation: Instantiation, model: nn.Module, split: Split, noise: NoiseConfig) -> None:
        self.config = Config(objectives=["total", "mse"], noise=noise)
        self.finetune = FineTune(data=split, epochs=0, loss=nn.functional.mse_loss)
        self.compression = Compression(model, instantiation, self.finetune)
        self.model, self.instantiation, self.store = model, instantiation, None
        self.objectives = (*instantiation.costs, *instantiation.qualities)
        self.directions = [meter.direction for meter in self.objectives]
        self.base = measure_base(model, instantiation)
        self.data = Data(split, split, split)


def study_of(*rules, noise: NoiseConfig | None = None):
    """Return a study in which `scale.by` = v costs v of the first of three numbers and v²/3 of mean squared error."""
    model = Numbers(1.0, 1.0, 1.0)
    inputs = torch.zeros(50, 3)
    split = Split((inputs, torch.ones(50, 3)))
    parts = toy(*rules)
    instantiation = Instantiation("toy", parts.rules, (Total(),), (MeanSquaredError(data=split),))
    return _Study(instantiation, model, split, noise or NoiseConfig())


def made(experiment, value: float) -> Point:
    move = Point(1, [["scale.by", value]], {})
    run = run_sequence(experiment.model, experiment.instantiation, move.moves, base=experiment.base)
    point = Point.of(1, run.trace.accepted[-1])
    return Point(1, point.sequence, {**point.readings, "mse": [point.readings["mse"][0], 0.01]}, {})
