import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import Numbers, Scale

from kmr.cache import describe, fingerprint, key_of
from kmr.core import KMRError
from kmr.data import Split
from kmr.finetune import FineTune


def split(seed: int = 0, batch_size: int = 4) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split((torch.randn(8, 3, generator=generator), torch.arange(8) % 2), batch_size)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()


def test_equal_objects_are_described_alike_and_as_key_parts() -> None:
    recipe = FineTune(data=split(), steps=3, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    again = FineTune(data=split(), steps=3, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    assert key_of(part=describe(recipe)) == key_of(part=describe(again))


def test_every_setting_of_a_recipe_counts() -> None:
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    recipes = [
        FineTune(data=split(), steps=3),
        FineTune(data=split(), steps=4),
        FineTune(data=split(), steps=3, seed=1),
        FineTune(data=split(1), steps=3),
        FineTune(data=split(batch_size=8), steps=3),
        FineTune(data=split(), steps=3, optimizer=sgd),
        FineTune(data=split(), steps=3, optimizer=functools.partial(torch.optim.SGD, lr=0.2)),
        FineTune(data=split(), steps=3, loss=F.mse_loss),
    ]
    assert len({key_of(part=describe(recipe)) for recipe in recipes}) == len(recipes)


def test_a_field_can_be_left_out() -> None:
    shown = FineTune(data=split(), progress=lambda done, total, loss: None)
    with pytest.raises(KMRError, match="lambda"):
        describe(shown)
    assert describe(shown, without=("progress",)) == describe(FineTune(data=split()), without=("progress",))


@pytest.mark.parametrize("value", [object(), lambda: 0, {3}, {1: 2}, torch.zeros(2).to_sparse()])
def test_what_has_no_known_content_is_refused(value: object) -> None:
    with pytest.raises(KMRError, match=r"cache key|no plain bytes"):
        describe(value)


def test_code_outside_torch_is_known_by_its_file() -> None:
    assert describe(Scale)["source"]
    assert "source" not in describe(nn.Linear)
    assert describe(F.relu) == {"code": "torch.nn.functional:relu"}


def test_a_parametrized_module_counts_with_the_class_it_came_from() -> None:
    model = nn.Linear(2, 2)
    assert "bases" not in describe(type(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
    model.__class__ = Narrow
    described = describe(type(nn.utils.parametrizations.weight_norm(model)))
    assert described["bases"] == [describe(Narrow)]
    assert described["bases"][0]["source"]


class Narrow(nn.Linear):
    """A layer of the user's."""


def narrow(model: Any) -> None:
    model[0].stride = (2, 2)


def nudge(model: Any) -> None:
    model[0].weight.data[0, 0, 0, 0] += 1e-7


def shift(model: Any) -> None:
    model[1].running_mean[0] += 1


def swap(model: Any) -> None:
    model[2] = nn.Tanh()


def freeze(model: Any) -> None:
    model[0].weight.requires_grad_(False)


def train(model: Any) -> None:
    model.train()


@pytest.mark.parametrize("change", [narrow, nudge, shift, swap, freeze, train])
def test_a_models_fingerprint_changes_with_what_it_computes(change: Callable[[Any], None]) -> None:
    model = net()
    assert fingerprint(model) == fingerprint(net()) == fingerprint(copy.deepcopy(model))
    change(model)
    assert fingerprint(model) != fingerprint(net())


def test_the_fingerprint_of_half_precision_and_scalars() -> None:
    model = nn.Module()
    model.register_buffer("one", torch.tensor(1.0, dtype=torch.bfloat16))
    other = nn.Module()
    other.register_buffer("one", torch.tensor(1.0, dtype=torch.float16))
    assert fingerprint(model) != fingerprint(other) != fingerprint(Numbers(1.0))
