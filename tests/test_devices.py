"""What every rule and meter of `conf/` owes a model on another device: it stays there, and reads the same."""

from pathlib import Path

import pytest
import torch
from contracts import IMAGES, METERS, MODELS, RULES, cnn, meter, output, rule, turned
from elsewhere import elsewhere
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import Rule
from kmr.data import Split
from kmr.finetune import FineTune, Guide
from kmr.instantiations.distillation import Hints, Mutual, Response
from kmr.instantiations.peft import LowRankAdaptation
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.recovery import Recovery
from kmr.meters import Agreement, Latency, PeakMemory, SampleTime

VALUES = {"exits": 0.3, "geta": 0.12, "recover": "reconstruct"}
ATTENTION = ("structured", "lowrank", "quantize", "static", "share_blocks", "depth", "tensor")
DATA = Split((IMAGES, torch.arange(24) % 4), 8)


def devices(model: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


def check(made: Rule, model: nn.Module, there: nn.Module, value: object = None) -> nn.Module:
    """Compare a rule on a model with the same on the model elsewhere; return the latter."""
    here, moved = turned(made, model, value), turned(made, there, value)
    assert devices(moved) == {"meta"}
    assert output(moved).device.type == "meta"
    torch.testing.assert_close(output(moved).cpu(), output(here), rtol=1e-3, atol=1e-3)
    return moved


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "cnn") for name in RULES), *((n, "transformer") for n in ATTENTION)]
)
def test_a_rule_leaves_the_model_on_its_device(name: str, kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    with elsewhere() as device:
        there = MODELS[kind]().to(device)
        moved = check(rule(name, kind), model, there, VALUES.get(name))
        kmr.save(tmp_path / "model", moved, base=there, builder=Builder("torch.nn.Module"))
        loaded = kmr.load(tmp_path / "model", base=there)
        assert devices(loaded) == {"cpu"}
        assert devices(kmr.load(tmp_path / "model", base=there, device=device)) == {"meta"}
        torch.testing.assert_close(output(loaded), output(moved).cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METERS)
def test_a_meter_reads_the_same_on_another_device(name: str) -> None:
    made = meter(name)
    with elsewhere() as device:
        read = made(cnn().to(device)).value
    if not isinstance(made, Latency | SampleTime | PeakMemory) and "latency" not in name:
        assert read == pytest.approx(made(cnn()).value, rel=1e-4, abs=1e-6)


def test_the_original_may_be_on_another_device_than_the_model() -> None:
    with elsewhere() as device:
        assert Agreement(data=DATA, original=cnn())(cnn().to(device)).value == 1.0
        assert Agreement(data=DATA, original=cnn().to(device))(cnn()).value == 1.0


@pytest.mark.parametrize(
    "guides",
    [{}, {"response": Response()}, {"hints": Hints(pairs={"0": "0"})}, {"mutual": Mutual()}],
    ids=lambda guides: next(iter(guides), "none"),
)
@pytest.mark.parametrize("original", ["cpu", "meta"])
def test_training_runs_where_the_model_is(guides: dict[str, Guide], original: str) -> None:
    with elsewhere():
        teacher, student = cnn().to(original), cnn().to("meta")
        FineTune(data=DATA, steps=3, guides=guides, original=teacher, holdout=0.3, keep="best")(student)
        assert devices(student) == {"meta"}
        alone = cnn()
        FineTune(data=DATA, steps=3, guides=guides, original=cnn(), holdout=0.3, keep="best")(alone)
        torch.testing.assert_close(output(student).cpu(), output(alone), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["quantize", "structured", "lowrank", "share"])
def test_rules_compute_on_the_cpu_where_the_device_has_no_double_precision(name: str, monkeypatch) -> None:
    for module in ("kmr.core.rule", "kmr.meters.predictions"):
        monkeypatch.setattr(f"{module}.has_double", lambda device: device.type == "cpu")
    with elsewhere() as device:
        moved = check(rule(name), cnn(), cnn().to(device))
        read = Agreement(data=DATA, original=cnn().to(device))(moved)
    assert read.value == Agreement(data=DATA, original=cnn())(turned(rule(name), cnn())).value


def test_tensors_of_two_devices_do_not_mix() -> None:
    with elsewhere() as device, pytest.raises(RuntimeError, match="expected all tensors on one device"):
        torch.ones(2).to(device) + torch.ones(2)


def test_a_loss_of_the_users_own_gets_its_batch_on_the_device() -> None:
    def own(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs), targets)

    with elsewhere() as device:
        assert devices(FineTune(data=DATA, steps=2, batch_loss=own)(cnn().to(device))) == {"meta"}


@pytest.mark.parametrize("settings", [{}, {"directional": True}, {"serial": True}])
def test_adapters_are_trained_where_the_model_is(settings: dict[str, bool]) -> None:
    with elsewhere():
        model = cnn().to("meta")
        LowRankAdaptation(data=DATA, steps=2, trainable=0.5, **settings)(model)
        assert devices(model) == {"meta"}
        assert bool(torch.isfinite(output(model)).all())


@pytest.mark.parametrize("value", ["bn", "bn_data_free", "reconstruct_data_free"])
def test_recovery_runs_where_the_model_is(value: str) -> None:
    pruned = turned(UnstructuredPruning(), cnn(), 0.5)
    with elsewhere() as device:
        there = turned(UnstructuredPruning(), cnn().to(device), 0.5)
        check(Recovery(data=DATA, original=cnn(), example_inputs=IMAGES[:2], steps=5), pruned, there, value)
