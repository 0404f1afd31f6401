"""The key `device` of a config and the argument of the library: chosen, said, refused early, part of a study."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from elsewhere import elsewhere
from small import measured, sweep
from tiny import tiny_experiment

from kmr import load
from kmr.core import KMRError, device_of
from sweeps import Compression
from sweeps.errors import SweepError
from sweeps.experiment.open_study import open_study
from sweeps.search.study.attributes import BASE


def test_a_device_that_is_not_here_is_refused_before_anything_is_trained(tmp_path: Path, capsys) -> None:
    assert sweep(tmp_path, "device=gpu")[0] != 0
    assert "error: device is 'gpu', which torch cannot use here: choose auto" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_auto_chose_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("kmr.core.device.accelerators", list)
    assert sweep(tmp_path, "trials=1")[0] == 0
    assert "device: cpu, as torch finds it here; device= sets another\n" in capsys.readouterr().out
    assert sweep(tmp_path, "trials=2", "device=cpu")[0] == 0, "cpu continues what auto began on the CPU"
    assert "device:" not in capsys.readouterr().out


def test_a_study_goes_on_where_it_ran(tmp_path: Path) -> None:
    experiment = tiny_experiment(plain={"sampler": {"_target_": "optuna.samplers.RandomSampler"}})
    on_gpu = replace(experiment, identity={"seed": 0, "device": "cuda", "weights_digest": "1"})
    study = open_study(on_gpu, tmp_path)
    study.set_user_attr(BASE, {})
    with pytest.raises(SweepError, match=r"study tiny ran on cuda, and this run is on cpu.*device=cuda"):
        open_study(replace(experiment, identity={"seed": 0, "weights_digest": "2"}), tmp_path)
    assert open_study(on_gpu, tmp_path).study_name == "tiny"


def test_the_library_moves_the_model_it_compresses() -> None:
    made = tiny_experiment()
    assert device_of(Compression(made.model, made.instantiation).model).type == "cpu"
    moved = Compression(made.model, made.instantiation, device=torch.device("meta"))
    assert device_of(moved.model).type == "meta"
    assert device_of(made.model).type == "cpu", "the caller's stays where it is"
    with pytest.raises(KMRError, match="device is 'tpu', which torch cannot use here"):
        Compression(made.model, made.instantiation, device="tpu")


def test_a_sweep_on_another_device_finds_what_it_finds_on_the_cpu(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kmr.core.device.accelerators", lambda: ["meta"])
    with elsewhere():
        assert sweep(tmp_path / "there", "trials=2")[0] == 0
    assert sweep(tmp_path / "here", "trials=2", "device=cpu")[0] == 0
    assert measured(tmp_path / "there") == measured(tmp_path / "here")
    saved = next((tmp_path / "there" / "small" / "front").iterdir())
    assert device_of(load(saved)).type == "cpu"
