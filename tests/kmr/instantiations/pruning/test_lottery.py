import copy

import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.pruning import LotteryTicket, UnstructuredPruning
from kmr.representation.weights import read_weight

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
DATA = Split((X, (X[:, 0] > 0).long()), 16)
RECIPE = FineTune(data=DATA, steps=12)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 2)).eval()


def masks(model: nn.Module) -> list[torch.Tensor]:
    found = [read_weight(model[i]).keep for i in (0, 3)]
    assert all(keep is not None for keep in found)
    return found  # type: ignore[return-value]


def test_the_mask_is_that_of_the_trained_model_and_the_weights_those_of_the_untrained() -> None:
    model = mlp()
    ticket = LotteryTicket(finetune=RECIPE)(model, "ticket.sparsity", 0.7)
    trained = UnstructuredPruning()(RECIPE(copy.deepcopy(model)), "prune.sparsity", 0.7)
    for keep, expected in zip(masks(ticket), masks(trained), strict=True):
        assert torch.equal(keep, expected)
    for i, keep in zip((0, 3), masks(ticket), strict=True):
        assert torch.equal(read_weight(ticket[i]).weight, model[i].weight.detach() * keep)
        assert torch.equal(ticket[i].bias, model[i].bias)
    assert torch.equal(ticket[1].running_mean, model[1].running_mean)
    untrained = UnstructuredPruning()(model, "prune.sparsity", 0.7)
    assert any(not torch.equal(a, b) for a, b in zip(masks(ticket), masks(untrained), strict=True))


def test_rounds_remove_the_same_share_of_what_is_left_and_never_bring_back() -> None:
    counts: list[int] = []

    def recipe(model: nn.Module) -> nn.Module:
        counts.append(sum(int((read_weight(model[i]).weight != 0).sum()) for i in (0, 3)))
        return RECIPE(model)

    ticket = LotteryTicket(finetune=recipe, rounds=3)(mlp(), "ticket.sparsity", 0.875)
    assert counts == [200, 100, 50]
    assert sum(int(keep.sum()) for keep in masks(ticket)) == 25


def test_the_control_has_the_mask_and_other_weights_of_the_same_distribution() -> None:
    model = mlp()
    rewound = LotteryTicket(finetune=RECIPE)(model, "ticket.sparsity", 0.6)
    control = LotteryTicket(finetune=RECIPE, start="random", seed=3)(model, "ticket.sparsity", 0.6)
    other = LotteryTicket(finetune=RECIPE, start="random", seed=4)(model, "ticket.sparsity", 0.6)
    for a, b in zip(masks(rewound), masks(control), strict=True):
        assert torch.equal(a, b)
    kept = masks(rewound)[0]
    assert not bool((read_weight(control[0]).weight[kept] == read_weight(rewound[0]).weight[kept]).any())
    assert not torch.equal(read_weight(control[0]).weight, read_weight(other[0]).weight)
    assert float(read_weight(control[0]).weight.abs().max()) <= 8**-0.5
    assert torch.equal(control[1].weight, model[1].weight)


def test_a_knob_for_some_layers_leaves_the_others() -> None:
    ticket = LotteryTicket(finetune=RECIPE, layers=("0",), start="random")(mlp(), "ticket.sparsity@0", 0.5)
    assert read_weight(ticket[3]).keep is None
    assert torch.equal(ticket[3].weight, mlp()[3].weight)
    assert int(read_weight(ticket[0]).weight.count_nonzero()) == 80


def test_bad_settings_are_named() -> None:
    with pytest.raises(KMRError, match="at least one round"):
        LotteryTicket(finetune=RECIPE, rounds=0)
    with pytest.raises(KMRError, match="not 'early'"):
        LotteryTicket(finetune=RECIPE, start="early")  # type: ignore[arg-type]
