import pytest
import torch
from torch import nn

from kmr.core import Budget, Choice, FloatRange, Instantiation, KMRError, Outcome, budgeted_kmr
from kmr.data import Split
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import CrossEntropy, WeightBytes
from kmr.policies import Allocated


def setting() -> tuple[nn.Module, Instantiation]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    inputs = torch.randn(64, 16)
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    rule = WeightQuantization(layers=("0", "2", "4"), clip="mse")
    quality = CrossEntropy(data=Split((inputs, targets), 64), name="loss")
    return model, Instantiation("toy", (rule,), (WeightBytes(),), (quality,))


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5, 0.9])
def test_the_budget_is_met_and_no_knob_turns_twice_without_need(share: float) -> None:
    model, instantiation = setting()
    limit = WeightBytes()(model).value * share
    budget = Budget("weight_bytes", limit, 12)
    run = budgeted_kmr(model, instantiation, Allocated(instantiation, budget), budget)
    assert run.outcome is Outcome.SUCCESS
    assert run.trace.accepted[-1].costs["weight_bytes"].value <= limit
    assert len({move.knob for move in run.trace.sequence}) == len(run.trace.sequence)


def test_what_is_chosen_loses_the_least_of_all_that_fits() -> None:
    model, instantiation = setting()
    rule = instantiation.rules[0]
    bytes_of, quality = instantiation.costs[0], instantiation.qualities[0]
    limit = bytes_of(model).value * 0.28
    budget = Budget("weight_bytes", limit, 12)
    space = {knob.name: type(knob.domain)((8, 4, 2), neutral=32) for knob in rule.knobs}  # type: ignore[call-arg]
    run = budgeted_kmr(model, instantiation, Allocated(instantiation, budget, space), budget)
    single = {
        (k.name, v): (bytes_of(rule(model, k.name, v)).value, quality(rule(model, k.name, v)).value)
        for k in rule.knobs
        for v in (8, 4, 2)
    }
    start = (bytes_of(model).value, quality(model).value)
    best = float("inf")
    for a in (8, 4, 2):
        for b in (8, 4, 2):
            for c in (8, 4, 2):
                picks = [single[k.name, v] for k, v in zip(rule.knobs, (a, b, c), strict=True)]
                if start[0] + sum(cost - start[0] for cost, _ in picks) <= limit:
                    best = min(best, sum(max(0.0, q - start[1]) for _, q in picks))
    chosen = sum(max(0.0, single[m.knob, m.value][1] - start[1]) for m in run.trace.sequence)  # type: ignore[index]
    assert chosen == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("share", [0.03, 0.05, 0.08])
def test_the_budget_is_met_where_savings_multiply(share: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    _, instantiation = setting()
    rules = (StructuredPruning(example_inputs=torch.zeros(2, 16)), WeightQuantization(clip="mse"))
    both = Instantiation("both", rules, instantiation.costs, instantiation.qualities)
    space = {rule.knobs[0].name: rule.knobs[0].domain for rule in rules}
    space["structured.ratio"] = FloatRange(0.0, 0.6, neutral=0.0)
    space["quantize.bits"] = Choice((32, 8, 4, 2), neutral=32)
    budget = Budget("weight_bytes", WeightBytes()(model).value * share, 12)
    run = budgeted_kmr(model, both, Allocated(both, budget, space, levels=4), budget)
    assert run.outcome is Outcome.SUCCESS


def test_a_budget_out_of_reach_fails_with_everything_turned() -> None:
    model, instantiation = setting()
    budget = Budget("weight_bytes", 10.0, 12)
    run = budgeted_kmr(model, instantiation, Allocated(instantiation, budget), budget)
    assert run.outcome is Outcome.FAILURE
    assert {str(move) for move in run.trace.sequence} == {f"quantize.bits@{layer}=1" for layer in (0, 2, 4)}


def test_a_quality_is_needed() -> None:
    _, instantiation = setting()
    blind = Instantiation("blind", instantiation.rules, instantiation.costs, ())
    with pytest.raises(KMRError, match="needs a quality meter"):
        Allocated(blind, Budget("weight_bytes", 10.0, 3))
