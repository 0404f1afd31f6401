import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import conf
from kmr.core import KMRError, NotApplicable, isolated_rng, measure
from kmr.data import Split
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.peft import LowRankAdaptation
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import NonzeroParameters, Parameters, TrainableParameters, WeightBytes
from sweeps.experiment.instantiate import part


def small() -> nn.Sequential:
    with isolated_rng(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        ).eval()


def data(n: int = 32) -> Split:
    x = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return Split((x, (x.mean((1, 2, 3)) > 0).long()), 8)


def recipe(**settings: Any) -> LowRankAdaptation:
    optimizer = partial(torch.optim.Adam, lr=0.01)
    return LowRankAdaptation(data=data(), optimizer=optimizer, **{"steps": 12, "trainable": 0.3, **settings})


def loss(model: nn.Module) -> float:
    x, y = next(Split(data().source, 32).batches())
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


@pytest.mark.parametrize("kind", ["lora", "directional", "serial"])
@pytest.mark.parametrize("treated", ["plain", "pruned", "quantized", "factorised"])
def test_training_recovers_and_no_cost_moves(kind: str, treated: str) -> None:
    model: nn.Module = small()
    match treated:
        case "pruned":
            model = UnstructuredPruning()(model, "prune.sparsity", 0.5)
        case "quantized":
            model = WeightQuantization()(model, "quantize.bits", 4)
        case "factorised":
            model = LowRank(layers=("4",))(model, "lowrank.keep@4", 0.5)
    meters = [Parameters(), NonzeroParameters(), WeightBytes(), TrainableParameters()]
    costs, before, names = measure(model, meters), loss(model), set(model.state_dict())
    tuned = recipe(directional=kind == "directional", serial=kind == "serial")(model)
    assert measure(tuned, meters) == costs
    assert set(tuned.state_dict()) == names
    assert loss(tuned) < before


def test_the_change_of_a_weight_is_of_the_rank_that_the_budget_allows() -> None:
    model = small()
    before = model[4].weight.detach().clone()
    total = sum(p.numel() for p in model.parameters())
    # Vectors: 8 + 16 + 16 + 3; a rank takes 17 + 144 + 19 (the last layer three ranks at most).
    trainable = (43 + 2 * (17 + 144 + 19) + 100) / total
    tuned: Any = recipe(trainable=trainable, steps=3)(model)
    change = torch.linalg.svdvals(tuned[4].weight.detach().double() - before.double())
    assert float(change[1]) > 1e-6
    assert float(change[2]) < 1e-6
    with pytest.raises(NotApplicable, match="rank 1 on 3 layers"):
        recipe(trainable=0.5 * (43 + 180) / total)(small())
    with pytest.raises(NotApplicable, match="rank 3"):
        recipe(trainable=trainable, rank=3)(small())


def test_only_adapters_and_vectors_meet_the_optimizer() -> None:
    held: list[int] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        held.append(sum(p.numel() for p in parameters))
        return torch.optim.SGD(parameters, lr=0.1)

    model = small()
    total = sum(p.numel() for p in model.parameters())
    LowRankAdaptation(data=data(), steps=1, optimizer=optimizer, trainable=0.3)(model)
    assert 0 < held[0] <= 0.3 * total
    LowRankAdaptation(data=data(), steps=1, optimizer=optimizer, rank=1, vectors=False, trainable=0.3)(model)
    assert held[1] == 17 + 144 + 19


def test_the_same_seed_gives_the_same_model_and_frozen_layers_stay() -> None:
    base = small()
    base[0].weight.requires_grad_(False)
    one, other = (recipe()(copy.deepcopy(base)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert torch.equal(one[0].weight, base[0].weight)  # type: ignore[index]
    assert [p.requires_grad for p in one.parameters()] == [p.requires_grad for p in base.parameters()]
    assert recipe(steps=0)(base) is base


@pytest.mark.parametrize("name", ["lora", "adapters"])
def test_the_config_makes_it(name: str) -> None:
    config = yaml.safe_load((Path(conf.__file__).parent / "finetune" / f"{name}.yaml").read_text())
    made = part("finetune", config, (), data=data(), seed=0, original=small())
    assert isinstance(made, LowRankAdaptation)
    assert made.trainable == 0.1


@pytest.mark.parametrize("bad", [{"trainable": 0.0}, {"trainable": 1.5}, {"rank": 0}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(KMRError):
        recipe(**bad)
