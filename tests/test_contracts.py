"""What every rule, meter and policy of `conf/` owes, found there by its YAML: adding one adds it here."""

import pytest
from contracts import IMAGES, METERS, MODELS, POLICIES, RULES, cnn, instantiation, meter, policy, rule, turned
from torch import nn

from kmr.core import NotApplicable
from kmr.meters import Energy, Latency, SampleTime
from kmr.testing import check_meter, check_policy, check_rule

WATCHED = ("weight_bytes", "parameters", "trainable_parameters", "macs")
"""The costs that a rule raises only where it says so."""
VALUES = {("exits", "cnn"): 0.3, ("exits", "transformer"): 0.3, ("recover", "cnn"): "bn"}
VALUES |= {("recover", "transformer"): "reconstruct", ("geta", "transformer"): 0.12}
"""What to turn to where the middle of the ladder does nothing (no sample leaves, no BatchNorm), is less than products
of activations take, or takes long."""


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_keeps_its_contract(name: str, kind: str) -> None:
    made = rule(name, kind)
    if (name, kind) == ("gate", "transformer"):
        with pytest.raises(NotApplicable, match="no convolution"):
            turned(made, MODELS[kind]())
        return
    values = {made.knobs[0].name: VALUES[name, kind]} if (name, kind) in VALUES else {}
    costs = [meter(cost) for cost in dict.fromkeys((made.lowers, *WATCHED))]
    check_rule(made, MODELS[kind](), IMAGES, values=values, costs=costs)
    assert made.recovers or made.lowers in {cost.name for cost in costs}, "what it lowers was read"


@pytest.mark.parametrize("name", METERS)
def test_a_meter_keeps_its_contract(name: str) -> None:
    made, model = meter(name), cnn()
    assert isinstance(model, nn.Sequential)
    model[0].train()
    check_meter(made, model, repeatable=not isinstance(made, Latency | SampleTime | Energy))
    assert made.name == name


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_keeps_its_contract(name: str) -> None:
    parts = instantiation()
    check_policy(policy(name), parts, cnn())
    assert len(parts.knobs) >= 2, "a space can leave one out"
