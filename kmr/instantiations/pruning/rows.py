"""Layers' weights as matrices with one row for each channel, whatever the layer's layout."""

from typing import Any

from torch import Tensor, nn


def channel_rows(layer: Any, tensor: Tensor, makes: bool) -> Tensor | None:
    """Return a tensor in the shape of a layer's weight as (channels, elements), or None for an unknown kind of layer.

    Args:
        layer: the layer; in a grouped convolution each row has the elements of its own group.
        tensor: the weight, its gradient, or any tensor of that shape.
        makes: True for rows of the channels that the layer makes, False for those it reads.
    """
    match layer:
        case nn.modules.conv._ConvTransposeNd():
            inputs = tensor.reshape(layer.groups, layer.in_channels // layer.groups, -1, tensor[0, 0].numel())
            if makes:
                return inputs.transpose(1, 2).reshape(layer.out_channels, -1)
            return tensor.reshape(layer.in_channels, -1)
        case nn.modules.conv._ConvNd() if not makes:
            grouped = tensor.reshape(layer.groups, layer.out_channels // layer.groups, -1, tensor[0, 0].numel())
            return grouped.transpose(1, 2).reshape(layer.in_channels, -1)
        case nn.modules.conv._ConvNd():
            return tensor.reshape(layer.out_channels, -1)
        case nn.Linear():
            return tensor if makes else tensor.t()
        case nn.Embedding():
            return tensor.t()
        case nn.modules.batchnorm._NormBase() | nn.GroupNorm() | nn.LayerNorm() if tensor.dim() == 1:
            return tensor[:, None]
    return None
