"""Models that are not what they compute are refused before anything is trained, each with its own sentence."""

import functools
import warnings
import weakref

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


class Last(nn.Module):
    """Takes the last step of a recurrent layer's outputs."""

    def forward(self, returned):
        return returned[0][:, -1]


class Net(nn.Module):
    """Two layers, whose forward the classes below change."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.prepare()

    def prepare(self):
        pass

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Lambda(Net):
    def prepare(self):
        self.run = lambda x: self.second(torch.relu(self.first(x)))

    def forward(self, x):
        return self.run(x)


class Hooked(Net):
    def prepare(self):
        second = self.second
        self.first.register_forward_hook(lambda module, inputs, output: output + second.weight.sum(0))


class Partial(Net):
    def prepare(self):
        self.run = functools.partial(F.linear, weight=self.first.weight)

    def forward(self, x):
        return self.second(self.run(x))


class WeakReference(Net):
    def prepare(self):
        self.reference = weakref.ref(self.first)

    def forward(self, x):
        return self.second(self.reference()(x))


class Caches(Net):
    def prepare(self):
        self.transposed = None

    def forward(self, x):
        if self.transposed is None:
            self.transposed = self.first.weight.t().clone()
        return self.second(x @ self.transposed)


class Grows(Net):
    def forward(self, x):
        if not hasattr(self, "third"):
            self.third = nn.Linear(3, 3)
        return self.third(super().forward(x))


class OwnGenerator(Net):
    def prepare(self):
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return super().forward(x + torch.rand(x.shape, generator=self.generator))


class RandomScale(Net):
    def prepare(self):
        self.scale = torch.rand(4)

    def forward(self, x):
        return super().forward(x * self.scale)


class RandomBuffer(RandomScale):
    def prepare(self):
        self.register_buffer("scale", torch.rand(4), persistent=False)


class Positions(RandomScale):
    def prepare(self):
        self.register_buffer("scale", torch.arange(4.0), persistent=False)


class Stores(Net):
    def forward(self, x):
        self.last = super().forward(x)
        return self.last


class Lazy(Net):
    def prepare(self):
        self.first = nn.LazyLinear(5)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Counts(), "depend on the calls before"),
        (Remembers(), "depend on the calls before"),
        (Noisy(nn.Linear(4, 3)), "draws random numbers in evaluation mode"),
        (closure(), "a copy of the model computes something else"),
        (Lambda(), "a copy of the model computes something else"),
        (Hooked(), "a copy of the model computes something else"),
        (Partial(), "a copy of the model computes something else"),
        (WeakReference(), "a copy of the model computes something else"),
        (Caches(), "keeps what its first call computed from its weights"),
        (Grows(), r"first call adds third\.bias"),
        (OwnGenerator(), "a random generator of its own"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, nn.Module) else "",
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


@pytest.mark.parametrize("kind", [RandomScale, RandomBuffer])
def test_a_random_tensor_outside_the_state_dict_is_named(kind) -> None:
    with pytest.raises(KMRError, match="computes something else: scale is not in the state dict"):
        check_model(kind(), SPLIT, Classification(), kind)


@pytest.mark.parametrize("kind", [Net, Positions, Stores])
def test_a_model_that_can_be_built_again_passes_as_it_was(kind) -> None:
    model = kind()
    model(SPLIT.source[0])  # with gradients: what it keeps is no leaf
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model, SPLIT, Classification(), kind)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 3)),
        lambda: nn.utils.spectral_norm(nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.LSTM(2, 3, batch_first=True), Last()),
        lambda: nn.Linear(4, 3).requires_grad_(False),
        lambda: nn.Linear(4, 3).bfloat16(),
        Lazy,
    ],
)
def test_a_model_with_norms_recurrence_or_lazy_layers_passes(make) -> None:
    model = make()
    check_model(model, SPLIT, Classification(), make)
    assert not any(nn.parameter.is_lazy(parameter) for parameter in model.parameters())


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
