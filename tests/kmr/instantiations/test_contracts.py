"""What every rule owes on every small model: its contract (`kmr.testing`), and composition with every other."""

import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kmr.core import Cost, NotApplicable, Reading, Rule, RuleWarning
from kmr.data import Split, forward, map_tensors
from kmr.finetune import FineTune
from kmr.instantiations.joint import BudgetedTraining
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
from kmr.instantiations.pruning.criteria import L1
from kmr.instantiations.quantization import (
    DynamicQuantization,
    StaticQuantization,
    WeightClustering,
    WeightQuantization,
)
from kmr.instantiations.tensor import TensorDecomposition
from kmr.meters import NonzeroParameters
from kmr.representation.weights import read_weight, weight_layers
from kmr.testing import check_rule
from kmr.testing.holds import off_grid

RULES: dict[str, tuple[Callable[[Any], Rule], float]] = {
    "prune": (lambda _: UnstructuredPruning(), 0.6),
    "prune_layerwise": (lambda _: UnstructuredPruning(scope="layer"), 0.6),
    "structured": (lambda inputs: StructuredPruning(example_inputs=inputs), 0.5),
    "structured_global": (
        lambda inputs: StructuredPruning(example_inputs=inputs, scope="global", criterion=L1()),
        0.4,
    ),
    "quantize": (lambda _: WeightQuantization(), 3),
    "quantize_symmetric": (lambda _: WeightQuantization(scheme="symmetric", granularity="tensor"), 4),
    "quantize_kmr": (lambda _: WeightQuantization(scheme="kmr"), 3),
    "quantize_group": (lambda _: WeightQuantization(group=5, learned=True, clip="mse"), 2),
    "static": (lambda inputs: StaticQuantization(data=samples(inputs)), 4),
    "static_learned": (lambda inputs: StaticQuantization(data=samples(inputs), learned=True, observer="entropy"), 8),
    "dynamic": (lambda _: DynamicQuantization(), 8),
    "cluster": (lambda _: WeightClustering(), 2),
    "lowrank": (lambda _: LowRank(), 0.3),
    "tensor": (lambda _: TensorDecomposition(), 0.4),
    "tensor_train": (lambda _: TensorDecomposition(method="tensor_train"), 0.4),
    "cp": (lambda _: TensorDecomposition(method="cp", iterations=3), 0.4),
    "geta": (lambda inputs: trained(inputs), 0.12),
}
OUT_OF_REACH = {("geta", "lstm"), ("geta", "tied"), ("geta", "attention")}
"""Where what a rule does not change takes too much: recurrent layers, a head that shares its weight, products of two
activations."""
FAMILIES = ("prune", "structured", "quantize", "lowrank")


class Samples(Dataset[Any]):
    """The samples of one batch of inputs."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        counts: list[int] = []
        map_tensors(lambda tensor: counts.append(len(tensor)), self.inputs)
        return counts[0]

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return map_tensors(lambda tensor: tensor[index], self.inputs), 0


def samples(inputs: Any) -> Split:
    return Split(Samples(inputs), 2)


def trained(inputs: Any) -> Rule:
    recipe = partial(FineTune, steps=2, batch_loss=lambda model, batch: forward(model, batch[0]).square().mean())
    return BudgetedTraining(example_inputs=inputs, data=samples(inputs), weight=0.0, updates=1, recipe=recipe)


def turn(name: str, model: nn.Module, inputs: Any, value: float | None = None) -> tuple[nn.Module, list[Warning]]:
    """Apply a rule at its only knob and return the model with the warnings, all of which must be the rule's own."""
    build, strength = RULES[name]
    rule = build(inputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = rule(model, rule.knobs[0].name, strength if value is None else value)
    assert [w.category for w in caught if w.category is not RuleWarning] == []
    return moved, [w.message for w in caught if isinstance(w.message, Warning)]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def output(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return forward(model, inputs)


def cost(name: str, model: nn.Module) -> float:
    """What the rule is there to lower."""
    if name.startswith("prune"):
        return NonzeroParameters()(model).value
    if name.startswith(("quantize", "static", "dynamic", "cluster", "geta")):
        bits = 0
        for _, layer in weight_layers(model):
            state = read_weight(layer)
            bits += state.weight.numel() * (32 if state.grid is None else state.grid.bits)
        return bits
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True, kw_only=True)
class Counted(Cost):
    """The cost above, as a meter."""

    of: str
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(cost(self.of, seen)))


def train_one_step(model: nn.Module, inputs: Any) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forward(model, inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.eval()


def checked(name: str, model: nn.Module, inputs: Any) -> None:
    build, strength = RULES[name]
    rule = build(inputs)
    costs = [Counted(name=rule.lowers, of=name)]
    check_rule(rule, model, inputs, values={rule.knobs[0].name: strength}, costs=costs)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_on_every_model(case: Any, model_name: str, rule: str) -> None:
    model, inputs = case(model_name)
    if (rule, model_name) in OUT_OF_REACH:
        with pytest.raises(NotApplicable, match="cannot be met"):
            turn(rule, model, inputs)
        return
    checked(rule, model, inputs)
    moved, _ = turn(rule, model, inputs)
    assert all(p.requires_grad for p in moved.parameters())
    assert not any(m.training for path, m in moved.named_modules() if "parametrizations" not in path)
    latent = state_of(moved)
    train_one_step(moved, inputs)
    assert any(not torch.equal(latent[name], tensor) for name, tensor in moved.state_dict().items())


@pytest.mark.parametrize("rule", RULES)
def test_frozen_parameters_and_training_modes_stay_as_they_were(case: Any, rule: str) -> None:
    model, inputs = case("vgg")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.train()
    model[1].eval()

    moved, _ = turn(rule, model, inputs)

    assert not any(p.requires_grad for p in moved.parameters())
    assert moved.training
    assert not moved[1].training
    assert all(m.training for m in moved[8].modules())


@pytest.mark.parametrize("rule", RULES)
def test_a_double_precision_model_stays_double(case: Any, rule: str) -> None:
    model, inputs = case("vgg")
    model, inputs = model.double(), inputs.double()
    checked(rule, model, inputs)
    moved, _ = turn(rule, model, inputs)
    assert {p.dtype for p in moved.parameters()} == {torch.float64}
    assert output(moved, inputs).dtype == torch.float64


@pytest.mark.parametrize("rule", RULES)
def test_no_layer_is_not_applicable(case: Any, rule: str) -> None:
    inputs = torch.randn(2, 4)
    with pytest.raises(NotApplicable):
        turn(rule, nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), inputs)


@pytest.mark.parametrize("name", ["vgg", "view_mlp", "option_a", "transformer"])
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(FAMILIES, 2)))
def test_rules_compose_in_any_order(case: Any, name: str, first: str, second: str) -> None:
    model, inputs = case(name)
    half, _ = turn(first, model, inputs)
    before, half_state = cost(first, half), state_of(half)

    both, notes = turn(second, half, inputs)

    assert_same_state(half_state, state_of(half))
    assert output(both, inputs).shape == output(model, inputs).shape
    assert torch.isfinite(output(both, inputs)).all()
    if second != "lowrank" or first == "structured":  # factors are dense, and their grids hold other numbers of weights
        assert cost(first, both) <= before
    again, _ = turn(second, half, inputs)
    assert_same_state(state_of(both), state_of(again))
    copied = copy.deepcopy(both)
    assert torch.equal(output(copied, inputs), output(both, inputs))

    grids = {path for path, layer in weight_layers(both) if read_weight(layer).grid is not None}
    masks = {path for path, layer in weight_layers(both) if read_weight(layer).keep is not None}
    every = {path for path, _ in weight_layers(both)}
    assert grids == (every if "quantize" in (first, second) else set())
    if first == "prune" and second == "lowrank":
        assert any("the mask is gone" in str(note) for note in notes)
    elif "prune" in (first, second):
        assert masks
    train_one_step(both, inputs)
    assert off_grid(both) == []
    for path, layer in weight_layers(both):
        state = read_weight(layer)
        assert (path in masks) == (state.keep is not None)
        assert state.keep is None or bool((state.weight[~state.keep] == 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_root_module_may_be_the_layer(family: str) -> None:
    model, inputs = nn.Linear(8, 8), torch.randn(2, 8)
    if family == "structured":
        with pytest.raises(NotApplicable):
            turn(family, model, inputs)
        return
    moved, _ = turn(family, model, inputs)
    assert cost(family, moved) < cost(family, model)
    assert output(moved, inputs).shape == (2, 8)
