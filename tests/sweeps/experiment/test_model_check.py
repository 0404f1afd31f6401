"""Models that are not what they compute are refused before anything is trained, each with its own sentence."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError
from kmr.data import Split
from kmr.tasks import Classification
from sweeps.experiment.model_check import check_model, unwrapped

SPLIT = Split((torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3), 8)


class Counts(nn.Module):
    """Adds the number of calls so far."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) + self.calls * torch.tensor([0.0, 1.0, 2.0])


class Noisy(nn.Sequential):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5)


class Remembers(nn.Module):
    """Adds the mean of the batch before, which is lost in a copy that was called another time."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        found = self.layer(x + self.last)
        self.last = x.mean(0)
        return found


def closure():
    """Return a model whose forward reads a tensor of its own through a function that copies do not change."""
    model = nn.Linear(4, 3)
    shift = nn.Parameter(torch.zeros(3))
    model.shift = shift
    model.register_forward_hook(lambda module, _, output: output + (1.0 if module.shift is not shift else 0.0))
    return model


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Counts(), "depend on the calls before"),
        (Remembers(), "depend on the calls before"),
        (Noisy(nn.Linear(4, 3)), "draws random numbers in evaluation mode"),
        (closure(), "a copy of the model computes something else"),
    ],
    ids=["counter", "buffer", "dropout", "closure"],
)
def test_a_model_that_is_not_what_it_computes_is_refused(model, named) -> None:
    with pytest.raises(KMRError, match=named):
        check_model(model, SPLIT, Classification())


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(4, 3)).train(),
    ],
)
def test_ordinary_models_pass_and_keep_their_modes(model) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    check_model(model, SPLIT, Classification())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrappers_are_taken_off_and_said(capsys) -> None:
    model = nn.Linear(4, 3)
    assert unwrapped(model) is model
    assert capsys.readouterr().out == ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing the compiler warns of itself
        compiled = torch.compile(model)
    assert unwrapped(nn.DataParallel(compiled)) is model
    assert capsys.readouterr().out.splitlines() == [
        "model: took it out of DataParallel",
        "model: took it out of OptimizedModule",
    ]
