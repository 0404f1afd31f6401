import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kmr
from kmr.artifact.folder import Builder
from kmr.core import KMRError, NotApplicable, RuleWarning
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.quantization import DynamicQuantization, StaticQuantization
from kmr.representation.activations import ActivationQuantizer, QuantizedConv2d, QuantizedLinear, quantized_layers
from kmr.representation.weights import read_weight


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.inner_norm(self.inner(x)) + x)
        return self.head(x.mean((2, 3)))


def net() -> Net:
    with kmr.isolated_rng(0):
        model = Net()
        for norm in (model.norm, model.inner_norm):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        return model.eval()


IMAGES = torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
DATA = Split((IMAGES, torch.arange(12) % 3), 4)


def turn(rule: Any, model: nn.Module, bits: int) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = rule(model, rule.knobs[0].name, bits)
    return moved, [str(w.message) for w in caught]


def test_norms_are_folded_inputs_rounded_and_what_is_added_up_too() -> None:
    model = net()
    moved, notes = turn(StaticQuantization(data=DATA, observer="minmax"), model, 8)
    assert notes == []
    assert isinstance(moved.stem, QuantizedConv2d)
    assert isinstance(moved.norm, nn.Identity)
    assert isinstance(moved.head, QuantizedLinear)
    assert [path for path, layer in quantized_layers(moved) if layer.output_quantizer is not None] == ["inner"]
    # The input of the first layer: affine over the range seen, with 0 in it.
    quantizer = moved.stem.input_quantizer
    low, high = float(IMAGES.min()), float(IMAGES.max())
    assert quantizer.scale.item() == pytest.approx((high - low) / 255, rel=1e-5)
    assert quantizer.zero_point.item() == round(-low / ((high - low) / 255))
    for _, layer in quantized_layers(moved):
        grid = read_weight(layer).grid
        assert grid is not None
        assert bool((grid.zero_point == 128).all())
        assert grid.scale.shape == (len(layer.weight), *[1] * (layer.weight.dim() - 1))
    with torch.no_grad():
        torch.testing.assert_close(moved(IMAGES), model(IMAGES), rtol=0.05, atol=0.05)


def test_what_the_model_computes_is_integer_arithmetic() -> None:
    moved, _ = turn(StaticQuantization(data=DATA, layers=("head",), fold=False), net(), 8)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    layer = moved.head
    q, grid = layer.input_quantizer, read_weight(layer).grid
    assert grid is not None
    codes = (torch.round(inputs / q.scale) + q.zero_point).clamp(0, 255).long() - int(q.zero_point)
    weights = grid.codes(layer.weight).long() - 128
    accumulated = (codes @ weights.T).double()
    expected = accumulated * (q.scale.double() * grid.scale.reshape(-1).double()) + layer.bias.double()
    torch.testing.assert_close(layer(inputs).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_observer_uses_at_most_its_levels(observer: Any, bits: int) -> None:
    moved, _ = turn(StaticQuantization(data=DATA, observer=observer), net(), bits)
    seen: list[int] = []
    for _, layer in quantized_layers(moved):
        layer.input_quantizer.register_forward_hook(lambda _, __, out: seen.append(len(out.unique())))
    with torch.no_grad():
        assert torch.isfinite(moved(IMAGES)).all()
    assert len(seen) == 3
    assert max(seen) <= 2**bits


def test_trained_afterwards_the_roundings_hold_and_the_loss_falls() -> None:
    model = net()
    for learned in (False, True):
        moved, _ = turn(StaticQuantization(data=DATA, learned=learned), model, 3)
        with torch.no_grad():
            before = float(F.cross_entropy(moved(IMAGES), DATA.source[1]))
        steps = moved.stem.input_quantizer.affine.detach().clone()
        trained = FineTune(data=DATA, steps=30, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))(moved)
        with torch.no_grad():
            assert float(F.cross_entropy(trained(IMAGES), DATA.source[1])) < before
        assert torch.equal(trained.stem.input_quantizer.affine, steps) != learned
        for _, layer in quantized_layers(trained):
            state = read_weight(layer)
            assert state.grid is not None
            assert torch.equal(state.grid.values(state.grid.codes(state.weight)), state.weight)


@pytest.mark.parametrize("learned", [False, True])
def test_an_artifact_brings_everything_back(learned: bool, tmp_path: Path) -> None:
    base = net()
    moved, _ = turn(StaticQuantization(data=DATA, learned=learned), base, 4)
    FineTune(data=DATA, steps=3)(moved)
    moved.eval()
    loaded: Any = kmr.load(kmr.save(tmp_path / "m", moved, base=base, builder=Builder("torch.nn.Linear")), base=base)
    assert torch.equal(loaded(IMAGES), moved(IMAGES))
    assert isinstance(loaded.inner.output_quantizer, ActivationQuantizer)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in moved.parameters()]
    # And trains on alike.
    one, other = (FineTune(data=DATA, steps=3)(m)(IMAGES) for m in (moved, loaded))
    assert torch.equal(one, other)


def test_a_second_move_fits_anew_and_other_layers_stay() -> None:
    rule = StaticQuantization(data=DATA, layers=("stem", "head"))
    once = rule(net(), "static.bits@stem", 8)
    twice: Any = rule(once, "static.bits@head", 4)
    assert torch.equal(twice.stem.input_quantizer.affine, once.stem.input_quantizer.affine)  # type: ignore[union-attr, arg-type]
    assert isinstance(twice.inner_norm, nn.BatchNorm2d)
    assert (twice.stem.input_quantizer.bits, twice.head.input_quantizer.bits) == (8, 4)


def test_weights_may_have_other_bits_than_activations() -> None:
    moved, _ = turn(StaticQuantization(data=DATA, weight_bits=4), net(), 8)
    assert read_weight(moved.head).grid.bits == 4  # type: ignore[union-attr]
    moved, _ = turn(DynamicQuantization(weight_bits=32), net(), 8)
    assert read_weight(moved.head).grid is None


def test_dynamic_rounds_to_the_range_of_the_batch() -> None:
    model = net()
    moved, _ = turn(DynamicQuantization(layers=("head",)), model, 8)
    x = torch.randn(5, 4)
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    step = (high - low) / 255
    assert float((moved.head.input_quantizer(x) - x).abs().max()) <= step * 0.51
    assert isinstance(moved.norm, nn.BatchNorm2d)


def test_bad_settings_and_missing_data_are_refused() -> None:
    with pytest.raises(KMRError, match="static needs calibration data"):
        StaticQuantization()
    with pytest.raises(KMRError, match="observer of static must be minmax"):
        StaticQuantization(data=DATA, observer="max")  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="samples of static must be at least 1"):
        StaticQuantization(data=DATA, samples=0)
    with pytest.raises(KMRError, match="weight_bits of dynamic"):
        DynamicQuantization(weight_bits=0)
    broken = copy.deepcopy(net())
    broken.stem.weight.data[0] = torch.nan
    with pytest.raises(NotApplicable, match="not finite"):
        turn(StaticQuantization(data=DATA), broken, 8)


def test_layers_the_data_do_not_reach_are_reported() -> None:
    class Spare(Net):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(2, 2)

    rule = StaticQuantization(data=DATA)
    with pytest.warns(RuleWarning, match="static: spare: activations left as they are: not called"):
        moved: Any = rule(Spare().eval(), "static.bits", 8)
    assert moved.spare.input_quantizer is None


class Parts(nn.Sequential):
    """Layers whose result is one of several parts that only a task can tell apart."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = super().forward(x)
        return {"aside": -found, "main": found}


def test_calibration_needs_no_output_that_only_the_task_knows() -> None:
    data = Split((torch.randn(32, 4), torch.randint(0, 3, (32,))))
    model = Parts(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    made = StaticQuantization(name="static", data=data)(model, "static.bits", 8)
    assert len(list(quantized_layers(made))) == 2
