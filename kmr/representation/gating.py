"""Layers that skip channels at run time, chosen by each input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelGate(nn.Module):
    """A linear predictor, from a layer's input, of which output channels to compute.

    Args:
        slope: shape (outputs, inputs); coefficients of the mean absolute value of each input channel.
        offset: shape (outputs,).
        threshold: a scalar; channels with a prediction above it are open.
    """

    slope: Tensor
    offset: Tensor
    threshold: Tensor

    def __init__(self, slope: Tensor, offset: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope)
        self.register_buffer("offset", offset)
        self.register_buffer("threshold", threshold)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, inputs, …) to (n, outputs), True where a channel is open."""
        return F.linear(channel_sizes(inputs), self.slope, self.offset) > self.threshold


class GatedLayer(nn.Module):
    """A layer whose closed channels output a constant.

    A dense kernel computes all channels and saves nothing. `kmr.meters.ExpectedMACs` reads the savings of a kernel that
    skips them.

    Args:
        layer: maps (n, inputs, …) to (n, outputs, …).
        gate: decides which channels of the layer are open.
        fill: shape (outputs,), the constants.
    """

    fill: Tensor

    def __init__(self, layer: nn.Module, gate: ChannelGate, fill: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.gate = gate
        self.register_buffer("fill", fill)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs with each sample's closed channels set to their constants."""
        return self.close(inputs, self.layer(inputs))

    def close(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return `outputs`, the layer's result for `inputs`, with each sample's closed channels at their constants."""
        per_channel = (1, -1, *[1] * (outputs.dim() - 2))
        is_open = self.gate(inputs).reshape(*outputs.shape[:2], *per_channel[2:])
        return torch.where(is_open, outputs, self.fill.reshape(per_channel))


def channel_sizes(values: Tensor) -> Tensor:
    """Return the mean absolute value of each channel of each sample, (n, channels)."""
    return values.abs().flatten(2).mean(2)
