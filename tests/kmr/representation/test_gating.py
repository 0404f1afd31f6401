import torch
from torch import nn

from kmr.representation.gating import ChannelGate, GatedLayer, channel_sizes


def test_a_channel_is_open_where_its_forecast_exceeds_the_threshold() -> None:
    gate = ChannelGate(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.0, -1.0]), torch.tensor(1.5))
    inputs = torch.tensor([[[2.0, -2.0], [0.0, 1.0]], [[1.0, 1.0], [-3.0, 1.0]]])
    assert channel_sizes(inputs).tolist() == [[2, 0.5], [1, 2]]
    assert gate(inputs).tolist() == [[True, False], [False, True]]


def test_closed_channels_hold_their_constant_and_open_ones_what_the_layer_makes() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3)
    gate = ChannelGate(torch.eye(3, 2), torch.zeros(3), torch.tensor(0.5))
    gated = GatedLayer(layer, gate, torch.tensor([7.0, 8.0, 9.0]))
    inputs = torch.ones(2, 2, 4, 4)
    inputs[0, 0], inputs[1, 1] = 0.1, 0.2
    outputs, plain = gated(inputs), layer(inputs)
    assert bool((outputs[0, 0] == 7).all())
    assert torch.equal(outputs[0, 1], plain[0, 1])
    assert torch.equal(outputs[1, 0], plain[1, 0])
    assert bool((outputs[1, 1] == 8).all())
    assert bool((outputs[:, 2] == 9).all())
