"""Grids and masks computed once for several passes."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.representation.weights import computed_once


def test_passes_give_the_same_and_the_model_is_as_before() -> None:
    base = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 5)).eval()
    model = UnstructuredPruning()(WeightQuantization()(base, "quantize.bits", 3), "prune.sparsity", 0.5)
    before, x = {name: value.clone() for name, value in model.state_dict().items()}, torch.randn(2, 3, 4, 4)
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    kinds = [type(layer) for layer in model]
    with computed_once(model), computed_once(model):
        assert type(model[0]) is nn.Conv2d
        assert model[0].weight is model[0].weight
        assert torch.equal(model(x), expected)
        assert model.state_dict().keys() == before.keys()
    assert [type(layer) for layer in model] == kinds
    assert torch.equal(model(x), expected)
    assert model[0].weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_inside_leaves_the_model_as_it_was() -> None:
    model = WeightQuantization()(nn.Linear(4, 2), "quantize.bits", 4)
    with pytest.raises(KeyError), computed_once(model):
        raise KeyError
    assert parametrize.is_parametrized(model, "weight")
    assert "weight" not in vars(model)
    model(torch.ones(1, 4)).sum().backward()
    assert model.parametrizations.weight.original.grad is not None


def test_a_model_without_grids_is_left_alone() -> None:
    model = nn.Linear(4, 2)
    with computed_once(model):
        assert isinstance(model.weight, nn.Parameter)
        assert "weight" not in vars(model)
