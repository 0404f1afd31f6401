import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError
from kmr.meters import EffectiveMACs, MACs
from kmr.meters.macs import count_macs
from kmr.representation.weights import Grid, WeightState, write_weight

torch.set_num_threads(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return torch.einsum("ni,oi->no", F.linear(x, self.weight) @ self.weight, self.weight)


class Vectors(nn.Module):
    def forward(self, x):
        return torch.dot(x[0], x[0]) + x.mv(x[0]) + torch.addmv(x[:, 0], x, x[0])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, y=None):
        x = self.linear(self.linear(x))
        return x if y is None else x + self.linear(y)


CASES = {
    "linear": (nn.Linear(6, 4), torch.randn(3, 6), 24),
    "tokens": (nn.Linear(6, 4), torch.randn(3, 5, 6), 5 * 24),
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(2, 4, 8, 8), 4 * 4 * 6 * 2 * 9),
    "conv1d": (nn.Conv1d(2, 3, 3, dilation=2), torch.randn(2, 2, 9), 5 * 3 * 2 * 3),
    "conv3d": (nn.Conv3d(2, 3, 2), torch.randn(2, 2, 3, 3, 3), 8 * 3 * 2 * 8),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.randn(2, 4, 5, 5), 25 * 4 * 3 * 9),
    "used twice": (Twice(), torch.randn(1, 4), 2 * 16),
    "attention": (Attention(), torch.randn(2, 5, 8), 5 * 8 * 24 + 2 * 5 * 5 * 8),
    "encoder": (
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        torch.randn(2, 5, 16),
        5 * 16 * 16 * 4 + 5 * 16 * 32 * 2 + 2 * 5 * 5 * 16,
    ),
    "lstm": (nn.LSTM(8, 6, batch_first=True), torch.randn(2, 5, 8), 5 * 4 * (8 * 6 + 6 * 6)),
    "gru": (nn.GRU(8, 6, batch_first=True), torch.randn(2, 5, 8), 5 * 3 * (8 * 6 + 6 * 6)),
    "functional": (Functional(), torch.randn(2, 4), 3 * 12),
    "vectors": (Vectors(), torch.randn(1, 7), 7 + 7 + 7),
    "two inputs": (Twice(), (torch.randn(2, 4), torch.randn(2, 4)), 3 * 16),
    "named inputs": (Twice(), {"x": torch.randn(2, 4), "y": torch.randn(2, 4)}, 3 * 16),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("frozen", [False, True])
def test_macs_by_hand(case, frozen):
    model, inputs, expected = CASES[case]
    model.requires_grad_(not frozen)
    assert MACs(example_inputs=inputs)(model).value == expected
    assert EffectiveMACs(example_inputs=inputs)(model).value == pytest.approx(expected)


def test_bilinear_layers_count():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Bilinear(3, 4, 5)

        def forward(self, x, y):
            return self.layer(x, y)

    total, layers = count_macs(Pair(), (torch.randn(2, 3), torch.randn(2, 4)))
    assert total == layers["layer"].macs == 60


def test_masks_lower_the_theoretical_count_alone():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 2))
    keep = torch.zeros(4, 2, 3, 3, dtype=torch.bool)
    keep[:, 0] = True
    write_weight(model[0], WeightState(torch.ones(4, 2, 3, 3), keep=keep))
    ones = torch.ones(5, 4)
    ones[0] = 0
    write_weight(model[2], WeightState(ones, Grid(torch.tensor(1.0), torch.tensor(0.0), 1)))
    inputs = torch.randn(3, 2, 3, 3)
    assert MACs(example_inputs=inputs)(model).value == 72 + 20 + 10
    assert EffectiveMACs(example_inputs=inputs)(model).value == 36 + 16 + 10


def test_layers_that_only_their_parent_reads_count_in_full():
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(1, 5, 8)
    total, layers = count_macs(model, (x, x, x))
    assert total == 5 * 8 * 8 * 4 + 2 * 5 * 5 * 8
    assert layers == {}


class Hole(nn.Linear):
    """Computes outside of what torch dispatches."""

    def forward(self, x):
        product = x.detach().numpy() @ self.weight.detach().numpy().T
        return torch.from_numpy(product) if type(x) is torch.Tensor else x


def test_a_hole_in_the_count_raises():
    with pytest.raises(KMRError, match="counted 0 multiply-accumulates, but the layers' shapes imply 24"):
        MACs(example_inputs=torch.randn(1, 6))(Hole(6, 4))
    with pytest.raises(KMRError, match="counted no multiply-accumulate"):
        MACs(example_inputs=torch.randn(1, 6))(nn.ReLU())


def test_resnet_20_has_its_published_count():
    from sweeps.examples.cifar import resnet20

    assert MACs(example_inputs=torch.zeros(4, 3, 32, 32))(resnet20()).value == pytest.approx(40.55e6, rel=1e-3)
