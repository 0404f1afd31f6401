"""What every rule and meter of `conf/` owes, found there by its YAML: adding one adds it here."""

import copy
from typing import Any

import pytest
import torch
from contracts import METERS, MODELS, RULES, cnn, meter, rule, same, state, turned
from torch import nn

from kmr.core import Cost, KMRError, NotApplicable, Quality, measure
from kmr.meters import Energy, Latency, SampleTime
from kmr.representation.activations import ActivationQuantizer
from kmr.representation.weights import read_weight, weight_layers

WATCHED = ("weight_bytes", "parameters", "trainable_parameters", "macs")
"""The costs that a rule raises only where it says so."""
VALUES = {("exits", "costs"): 0.3, ("recover", "costs"): "bn", ("recover", "transformer"): "reconstruct"}
VALUES["geta", "transformer"] = 0.12
"""What to turn to where the middle of the ladder does nothing (no sample leaves, no BatchNorm), is less than products
of activations take, or takes long."""


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_pure_deterministic_and_neutral_where_it_says_so(name: str, kind: str) -> None:
    model, made, value = MODELS[kind](), rule(name, kind), VALUES.get((name, kind))
    before = state(model)
    if (name, kind) == ("gate", "transformer"):
        with pytest.raises(NotApplicable, match="no convolution"):
            turned(made, model)
        return
    first, second = turned(made, model, value), turned(rule(name, kind), model, value)
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
    assert carried(turned(made, cnn(), VALUES.get((name, "costs")))) == made.leaves - {"structure"}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_lowers_what_it_is_for_and_raises_only_what_it_says(name: str) -> None:
    made = rule(name)
    costs = [meter(cost) for cost in dict.fromkeys((made.lowers, *WATCHED))]
    model = turned(made, cnn(), VALUES.get((name, "costs")))
    before, after = measure(cnn(), costs), measure(model, costs)
    if not made.recovers:
        assert after[made.lowers].value < before[made.lowers].value
    assert {cost.name for cost in costs if after[cost.name].value > before[cost.name].value} <= made.raises


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
