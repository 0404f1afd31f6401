"""Two factors offer the weight, bias and sizes of the layer that they replace."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.instantiations.factored import FactoredPair
from kmr.instantiations.lowrank import LowRank

X = torch.randn(3, 8, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def linear():
    return LowRank(name="lowrank")(nn.Sequential(nn.Linear(16, 12)), "lowrank.keep", 0.5)


@pytest.fixture
def convolution():
    layer = nn.Conv2d(8, 12, 3, stride=2, padding=1)
    return LowRank(name="lowrank")(nn.Sequential(layer), "lowrank.keep", 0.5)


def test_the_weight_of_linear_factors_computes_what_they_compute(linear) -> None:
    pair = linear[0]
    assert isinstance(pair, FactoredPair)
    assert (pair.in_features, pair.out_features) == (16, 12)
    x = torch.randn(5, 16)
    torch.testing.assert_close(F.linear(x, pair.weight, pair.bias), pair(x))
    pair.weight.sum().backward()
    assert all(pair[place].weight.grad is not None for place in (0, 1))


def test_the_weight_and_sizes_of_convolution_factors_compute_what_they_compute(convolution) -> None:
    pair = convolution[0]
    assert (pair.in_channels, pair.out_channels, pair.kernel_size) == (8, 12, (3, 3))
    sizes = {"stride": pair.stride, "padding": pair.padding, "dilation": pair.dilation, "groups": pair.groups}
    torch.testing.assert_close(F.conv2d(X, pair.weight, pair.bias, **sizes), pair(X), rtol=1e-4, atol=1e-5)
    assert pair.padding_mode == "zeros"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_compiles_factors(linear, convolution) -> None:
    x = torch.randn(5, 16)
    torch.testing.assert_close(torch.jit.script(linear)(x), linear(x))
    torch.testing.assert_close(torch.jit.script(convolution)(X), convolution(X))
