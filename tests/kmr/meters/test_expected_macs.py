import pytest
import torch
from torch import nn

from kmr.data import Split
from kmr.meters import Accuracy, ExpectedMACs, MACs
from kmr.representation.gating import ChannelGate, GatedLayer

X = torch.ones(4, 2, 5, 5)
X[0] = 3.0
DATA = Split((X, torch.zeros(4, dtype=torch.long)), 3)
EXAMPLE = torch.zeros(1, 2, 5, 5)


def gated() -> nn.Module:
    """Open all 4 channels for the first sample, and one of them for the others."""
    gate = ChannelGate(torch.ones(4, 2), torch.tensor([0.0, -1.0, -1.0, -1.0]), torch.tensor(1.5))
    layer = GatedLayer(nn.Conv2d(2, 4, 3), gate, torch.zeros(4))
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(36, 3)).eval()


def test_a_gated_layer_counts_by_what_is_open_for_each_sample() -> None:
    convolution, head, gates = 3 * 3 * 4 * 2 * 9, 36 * 3, 2 * 4
    assert MACs(example_inputs=EXAMPLE)(gated()).value == convolution + head + gates
    reading = ExpectedMACs(data=DATA, example_inputs=EXAMPLE)(gated())
    assert reading.value == convolution * (1 + 3 / 4) / 4 + head + gates
    # Of four samples one takes 3/4 of the convolution more than the others: a deviation of 3/8 of it.
    assert reading.stderr == pytest.approx(0.375 * convolution / 2)


def test_the_factors_inside_a_gate_save_in_the_one_that_makes_the_channels() -> None:
    model = gated()
    model[0].layer = nn.Sequential(nn.Conv2d(2, 1, 3), nn.Conv2d(1, 4, 1))
    whole = MACs(example_inputs=EXAMPLE)(model).value
    reading = ExpectedMACs(data=DATA, example_inputs=EXAMPLE)(model)
    assert reading.value == whole - 9 * 4 * (9 / 16)


def test_without_gates_it_is_what_runs() -> None:
    model = nn.Conv2d(2, 4, 3)
    reading = ExpectedMACs(data=DATA, example_inputs=EXAMPLE)(model)
    assert (reading.value, reading.stderr) == (3 * 3 * 4 * 2 * 9, None)


def test_it_shares_its_data_with_the_qualities() -> None:
    assert Accuracy(data=DATA).view.split is DATA
