import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from kmr.core import KMRError, NotApplicable, RuleWarning
from kmr.data import Split
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.instantiations.recovery import Recovery
from kmr.instantiations.recovery.recovery import calibration
from kmr.recovery import recalibrate, reconstruct, synthetic_inputs

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = Split((IMAGES, torch.zeros(40)), 16)


def original() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()
    return recalibrate(model, [IMAGES])


def rule(**more: Any) -> Recovery:
    given = {"original": original(), "data": DATA, "example_inputs": IMAGES[:2], "samples": 24, "steps": 5}
    return Recovery(**{**given, **more})


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_each_value_is_its_function_on_its_inputs() -> None:
    pruned = UnstructuredPruning()(original(), "prune.sparsity", 0.5)
    drawn = calibration(DATA, 24, 0)
    made = [synthetic_inputs(original(), IMAGES[:1], 24, steps=5)]
    for value, batches in (("bn", drawn), ("bn_data_free", made)):
        assert same(rule()(pruned, "recover.by", value), recalibrate(copy.deepcopy(pruned), batches))
    for value, batches in (("reconstruct", drawn), ("reconstruct_data_free", made)):
        expected = copy.deepcopy(pruned)
        reconstruct(expected, original(), batches, ridge=1e-2)
        assert same(rule()(pruned, "recover.by", value), expected)


def test_calibration_samples_are_drawn_by_the_seed() -> None:
    (first,), (again,), (other,) = (calibration(DATA, 24, seed) for seed in (0, 0, 1))
    assert first.shape == (24, 3, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_left_is_reported_and_what_cannot_be_is_infeasible() -> None:
    half = WeightQuantization(layers=("0",))(original(), "quantize.bits@0", 4)
    with pytest.warns(RuleWarning, match="recover: 0: left as they are: its weight lies on a grid"):
        rule()(half, "recover.by", "reconstruct")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(NotApplicable, match="no BatchNorm"):
        rule(original=plain)(plain, "recover.by", "bn")


def test_bad_settings_are_named() -> None:
    with pytest.raises(KMRError, match="needs calibration data"):
        rule(data=None)(original(), "recover.by", "bn")
    with pytest.raises(KMRError, match="samples >= 2"):
        rule(samples=1)


def test_every_small_model_comes_through(model_name: str, case: Any) -> None:
    model, inputs = case(model_name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        pruned = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    before = [p.shape for p in pruned.parameters()]
    reconstruct(pruned, model, [inputs])
    assert [p.shape for p in pruned.parameters()] == before
    assert all(bool(torch.isfinite(p).all()) for p in pruned.parameters())
