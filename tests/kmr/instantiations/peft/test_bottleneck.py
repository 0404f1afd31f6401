import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kmr
from benchmarks.architectures import make
from kmr.artifact.folder import Builder
from kmr.core import Budget, Instantiation, Move, NotApplicable, Outcome, budgeted_kmr, measure
from kmr.data import Split, forward
from kmr.finetune import FineTune
from kmr.instantiations.peft import Adapted, BottleneckAdapter, BottleneckAdapters
from kmr.instantiations.peft.bottleneck import bottleneck_parameters, largest_width, narrow, strongest
from kmr.meters import MACs, OptimizerBytes, Parameters, TrainableParameters, WeightBytes
from kmr.policies import Scheduled
from sweeps.examples.cifar import resnet


def base() -> nn.Module:
    with kmr.isolated_rng(0):
        return resnet(depth=14, width=4).eval()


IMAGES = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
DATA = Split((IMAGES, (IMAGES.mean((1, 2, 3)) > 0).long()), 8)
TRAINING = FineTune(data=DATA, steps=6, optimizer=partial(torch.optim.Adam, lr=0.02))


def adapted(share: float, model: nn.Module | None = None, inputs: Any = IMAGES[:2], **settings: Any) -> Any:
    rule = BottleneckAdapters(example_inputs=inputs, **settings)
    return rule(base() if model is None else model, "adapters.trainable", share)


def output(model: nn.Module, inputs: Any = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return forward(model, inputs)


def adapters(model: nn.Module) -> list[BottleneckAdapter]:
    return [module for module in model.modules() if isinstance(module, BottleneckAdapter)]


def test_an_adapter_by_hand() -> None:
    made: Any = BottleneckAdapter(5, 2, None, torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, 5)
    assert torch.equal(made(x), x)
    made.up.weight.data.normal_()
    made.up.bias.data.normal_()
    inner = F.gelu(x @ made.down.weight.T + made.down.bias)
    torch.testing.assert_close(made(x), x + inner @ made.up.weight.T + made.up.bias)
    points: Any = BottleneckAdapter(5, 2, 2, torch.Generator().manual_seed(0))
    for name in ("down", "up"):
        getattr(points, name).weight.data = getattr(made, name).weight.data[..., None, None]
        getattr(points, name).bias = getattr(made, name).bias
    torch.testing.assert_close(points(x.mT[..., None]), made(x).mT[..., None])


def test_parameters_and_the_largest_width_by_hand() -> None:
    # 5 channels: 10·r + r + 5; 2 channels: 4·r + r + 2 up to r = 2.
    assert [bottleneck_parameters([5, 2], width) for width in (1, 2, 3)] == [16 + 7, 27 + 12, 38 + 12]
    assert [largest_width([5, 2], budget) for budget in (22, 23, 38, 39, 50, 1000)] == [0, 1, 1, 2, 3, 5]


def test_the_strongest_units_stay() -> None:
    made: Any = BottleneckAdapter(4, 3, None, torch.Generator().manual_seed(0))
    made.up.weight.data = torch.ones(4, 1) * torch.tensor([2.0, 0.0, 1.0])
    made.down.weight.data = torch.ones(3, 1) * torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    x, whole = torch.randn(6, 4), copy.deepcopy(made)
    assert strongest(made, 1).tolist() == [0]
    narrow(made, strongest(made, 2))
    torch.testing.assert_close(made(x), whole(x))
    assert (made.down.out_features, made.up.in_features) == (2, 2)


@pytest.mark.parametrize("name", ["resnet (shortcut B)", "vit, fused qkv", "torch transformer encoder"])
def test_it_computes_the_same_at_first_and_trains_what_it_says(name: str, tmp_path: Path) -> None:
    model, inputs = make(name)
    total = sum(p.numel() for p in model.parameters())
    made = adapted(0.3, model, inputs)
    torch.testing.assert_close(output(made, inputs), output(model, inputs))
    trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert 0 < trained <= 0.3 * total
    own = {id(p) for adapter in adapters(made) for p in adapter.parameters()}
    assert all(p.requires_grad == (id(p) in own or p.dim() <= 1) for p in made.parameters())
    for adapter in adapters(made):
        adapter.up.weight.data.normal_(std=0.1)
    moves = (Move("adapters.trainable", 0.3),)
    saved = kmr.save(tmp_path / "m", made, base=model, builder=Builder("torch.nn.Sequential"), sequence=moves)
    loaded = kmr.load(saved, base=model)
    assert torch.equal(output(loaded, inputs), output(made.eval(), inputs))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in made.parameters()]


def test_training_moves_adapters_and_what_is_named_alone() -> None:
    model = base()
    made = TRAINING(adapted(0.3, model, vectors=False, also=("linear",)))
    for path, parameter in model.named_parameters():
        inner = path.split(".")
        here = ".".join([*inner[:2], "inner", *inner[2:]]) if inner[0].startswith("layer") else path
        after = dict(made.named_parameters()).get(here, dict(made.named_parameters()).get(path))
        assert after is not None
        assert torch.equal(after, parameter) != path.startswith("linear"), path
    assert all(bool(adapter.up.weight.any()) for adapter in adapters(made))


def test_costs_move_as_declared() -> None:
    model = base()
    costs = (TrainableParameters(), OptimizerBytes(), Parameters(), WeightBytes(), MACs(example_inputs=IMAGES[:1]))
    before, after = measure(model, costs), measure(adapted(0.2, model), costs)
    assert after["trainable_parameters"].value <= 0.2 * before["trainable_parameters"].value
    assert after["optimizer_bytes"].value < before["optimizer_bytes"].value
    held = sum(p.numel() for adapter in adapters(adapted(0.2, model)) for p in adapter.parameters())
    assert after["parameters"].value == before["parameters"].value + held
    assert {name for name in before if after[name].value > before[name].value} == BottleneckAdapters.raises - {
        "expected_macs"
    }


def test_turned_again_adapters_get_narrower() -> None:
    wide = TRAINING(adapted(0.1))
    widths = [len(adapter.down.weight) for adapter in adapters(wide)]
    again = adapted(0.06, wide)
    assert max(len(adapter.down.weight) for adapter in adapters(again)) < max(widths)
    trained = sum(p.numel() for p in again.parameters() if p.requires_grad)
    assert trained <= 0.06 * sum(p.numel() for p in base().parameters())
    for adapter, kept in zip(adapters(wide), adapters(again), strict=True):
        places = strongest(adapter, len(kept.down.weight))
        dropped = [place for place in range(len(adapter.down.weight)) if place not in places.tolist()]
        adapter.up.weight.data[:, dropped] = 0
    torch.testing.assert_close(output(again), output(wide))
    with pytest.raises(NotApplicable, match="already fit"):
        adapted(0.9, wide)


def test_where_it_is_not_applicable_it_says_why() -> None:
    with pytest.raises(NotApplicable, match="adapters of width 1"):
        adapted(0.005)
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 4)
    with pytest.raises(NotApplicable, match="name modules in `after`"):
        adapted(0.9, plain, x)
    assert isinstance(adapted(0.9, plain, x, after=("0",), vectors=False)[0], Adapted)


def test_the_instantiation_meets_a_budget_of_trainable_parameters() -> None:
    model = base()
    rule = BottleneckAdapters(example_inputs=IMAGES[:2])
    technique = Instantiation("adapters", (rule,), (TrainableParameters(), OptimizerBytes()), ())
    limit = 0.3 * TrainableParameters()(model).value
    budget = Budget("trainable_parameters", limit, 5)
    policy = Scheduled(technique, budget, levels=5)
    run = budgeted_kmr(model, technique, policy, budget, finetune=TRAINING, on_no_progress="next")
    assert run.outcome is Outcome.SUCCESS
    assert any(isinstance(module, Adapted) for module in run.model.modules())
