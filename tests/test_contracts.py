"""What every rule and meter of `conf/` owes, found there by its YAML: adding one adds it here."""

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import conf
import kmr
from kmr.activations import ActivationQuantizer
from kmr.artifact import Builder
from kmr.core import Cost, KMRError, Meter, Move, NotApplicable, NotHere, Quality, Rule, RuleWarning, measure
from kmr.data import Split, forward
from kmr.finetune import FineTune
from kmr.meters import Energy, Latency, Predictions, SampleTime
from kmr.policies.ladder import rungs
from kmr.weights import read_weight, weight_layers
from sweeps.build import part
from sweeps.errors import SweepError

CONF = Path(conf.__file__).parent
RULES = sorted(path.stem for path in (CONF / "rule").glob("*.yaml"))
WATCHED = ("weight_bytes", "parameters", "trainable_parameters", "macs")
"""The costs that a rule raises only where it says so."""
METERS = sorted(path.stem for path in (CONF / "meter").glob("*.yaml"))
IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen, self.back = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.back(torch.relu(self.widen(x))))


class Shortcut(nn.Module):
    """A convolution with a shortcut around it, for the rules that leave out whole blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


def cnn() -> nn.Module:
    with kmr.isolated_rng(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Shortcut(8), nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(), nn.Sequential(Residual(12, 6), Residual(12, 6)),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
            nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4),
        ).eval()  # fmt: skip


def rule(name: str) -> Rule:
    config = yaml.safe_load((CONF / "rule" / f"{name}.yaml").read_text())
    data = Split((IMAGES, torch.arange(24) % 4), 8)
    recipe = FineTune(data=data, steps=2)
    live = {"example_inputs": IMAGES[:2], "data": data, "original": cnn(), "finetune": recipe}
    made = part(f"rules.{name}", config, name=name, seed=0, **live)
    assert isinstance(made, Rule)
    return made


def meter(name: str) -> Meter:
    config = yaml.safe_load((CONF / "meter" / f"{name}.yaml").read_text())
    targets = torch.arange(24) % 4
    if name in ("r2", "neg_mse"):
        targets = torch.nn.functional.one_hot(targets).float() + torch.arange(24)[:, None]
    split = Split((IMAGES, targets), 8)
    live = {"data": Predictions(split), "original": cnn(), "example_inputs": IMAGES[:1], "calibration": split}
    try:
        made = part(f"meters.{name}", config, name=name, **live)
    except SweepError as error:
        if isinstance(error.__cause__, NotHere):
            pytest.skip(str(error))
        raise
    assert isinstance(made, Meter)
    return made


def turned(made: Rule, model: nn.Module, place: int = 2) -> nn.Module:
    """Apply a rule at a rung of its only knob's ladder, by default the middle; it may only warn in the way of rules."""
    knob = made.knobs[0]
    steps = rungs(knob.domain, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RuleWarning)
        return made(model, knob.name, steps[place * len(steps) // 4])


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return forward(model, IMAGES)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_pure_deterministic_and_neutral_where_it_says_so(name: str) -> None:
    model, made = cnn(), rule(name)
    before = state(model)
    first, second = turned(made, model), turned(rule(name), model)
    assert same(before, state(model)), "the model it was given is unchanged"
    assert same(state(first), state(second)), "the same (M, k, v) gives the same model"
    assert not same(before, state(first)), "the middle of the ladder does something"
    knob = made.knobs[0]
    assert same(before, state(made(model, knob.name, knob.domain.neutral)))
    with pytest.raises(KMRError, match="cannot be"):
        made(model, knob.name, "surely not a value")


def carried(model: nn.Module) -> set[str]:
    """Return the traits of a model that can be read off it, but for its structure."""
    states = [read_weight(layer) for _, layer in weight_layers(model)]
    found = {"masks": any(state.keep is not None for state in states)}
    found["weight grids"] = any(state.grid is not None for state in states)
    found["activation grids"] = any(isinstance(module, ActivationQuantizer) for module in model.modules())
    return {trait for trait, there in found.items() if there}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_leaves_what_it_says(name: str) -> None:
    made = rule(name)
    assert carried(turned(made, cnn())) == made.leaves - {"structure"}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_lowers_what_it_is_for_and_raises_only_what_it_says(name: str) -> None:
    made = rule(name)
    costs = [meter(cost) for cost in dict.fromkeys((made.lowers, *WATCHED))]
    model = turned(made, cnn(), 3 if name == "exits" else 2)  # at the middle no sample is sure enough to leave
    before, after = measure(cnn(), costs), measure(model, costs)
    if not made.recovers:
        assert after[made.lowers].value < before[made.lowers].value
    assert {cost.name for cost in costs if after[cost.name].value > before[cost.name].value} <= made.raises


CANNOT = {
    ("dynamic", "exits"): "depends on which others leave",  # ranges are those of the batch a sample is in
    ("dynamic", "gate"): "no convolution to gate",
    ("static", "gate"): "no convolution to gate",
    ("static", "recover"): "no BatchNorm statistics",  # they are folded into the weights
    ("depth", "share_blocks"): "no two blocks",  # one is left
}
"""Rules that do not follow another, and what they say."""


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(RULES, 2)))
def test_any_rule_composes_with_any_other_and_the_result_ships(first: str, second: str, tmp_path: Path) -> None:
    base = cnn()
    if (first, second) in CANNOT:
        with pytest.raises(NotApplicable, match=CANNOT[first, second]):
            turned(rule(second), turned(rule(first), base))
        return
    try:
        both = turned(rule(second), turned(rule(first), base))
    except NotApplicable as reason:
        pytest.fail(f"{second} after {first}: {reason}")
    assert output(both).shape == output(base).shape
    assert torch.isfinite(output(both)).all()
    moves = (Move("first", 1), Move("second", 2))
    saved = kmr.save(tmp_path / "model", both, base=base, builder=Builder("torch.nn.Sequential"), sequence=moves)
    assert torch.equal(output(kmr.load(saved, base=base)), output(both.eval()))


@pytest.mark.parametrize("name", METERS)
def test_a_meter_reads_a_finite_number_and_leaves_the_model_as_it_was(name: str) -> None:
    made = meter(name)
    assert isinstance(made, Cost | Quality)
    assert made.unit
    model = cnn()
    model[0].train()
    before, modes = state(model), [module.training for module in model.modules()]
    random_state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    reading = measure(model, [made])[name]
    assert reading.stderr is None or reading.stderr >= 0
    assert same(before, state(model))
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert threads == torch.get_num_threads()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", METERS)
def test_a_meter_reads_the_same_of_an_equal_model(name: str) -> None:
    model, made = cnn(), meter(name)
    if isinstance(made, Latency | SampleTime | Energy):
        pytest.skip("times differ from run to run")
    twin: Any = copy.deepcopy(model)
    assert made(model) == made(twin)
