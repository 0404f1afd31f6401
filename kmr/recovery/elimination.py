"""Removal costs of a layer's input channels after the remaining weights are refitted."""

import torch
from torch import Tensor


def removal_costs(weight: Tensor, gram: Tensor, channels: int, *, ridge: float = 1e-3) -> Tensor:
    """Return the squared error that removing each input channel adds after the remaining weights are refitted.

    Channels are removed one by one, always the one that adds least, and the other weights are refitted each time:
    Optimal Brain Surgeon with whole channels (Hassibi & Stork 1993; OBC, Frantar & Alistarh 2022). A channel's cost is
    the largest error added up to its removal, so that removing all channels below a threshold reproduces the
    elimination.

    Args:
        weight: shape (outputs, k); each channel has the same number of columns, adjacent to each other.
        gram: XᵀX/n of the columns' inputs X, shape (k, k).
        channels: number of channels in the k columns.
        ridge: added to the Gram matrix, as a share of its mean diagonal; > 0.

    Returns:
        Shape (channels,), in double precision and units of the mean squared error summed over the outputs.
    """
    width = weight.shape[1] // channels
    gram = gram.double()
    scale = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    inverse = torch.linalg.inv(gram + ridge * scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    left = weight.double().clone()
    alive = torch.ones(channels, dtype=torch.bool, device=weight.device)
    costs = torch.zeros(channels, dtype=torch.float64, device=weight.device)
    paid = torch.zeros((), dtype=torch.float64, device=weight.device)
    each = torch.arange(channels, device=weight.device)
    for _ in range(channels):
        blocks = inverse.reshape(channels, width, channels, width)[each, :, each]
        # A removed channel has a unit block in the inverse, so that every block stays invertible.
        precision = torch.linalg.inv(blocks)
        split = left.reshape(len(left), channels, width)
        added = torch.einsum("ocw,cwv,ocv->c", split, precision, split)
        chosen = int(torch.where(alive, added, torch.inf).argmin())
        columns = slice(chosen * width, (chosen + 1) * width)
        paid = torch.maximum(paid, added[chosen])
        costs[chosen] = paid
        onto = precision[chosen] @ inverse[columns]
        left = left - left[:, columns] @ onto
        inverse = inverse - inverse[:, columns] @ onto
        left[:, columns] = 0
        inverse[columns] = 0
        inverse[:, columns] = 0
        inverse[columns, columns] = torch.eye(width, dtype=inverse.dtype, device=inverse.device)
        alive[chosen] = False
    return costs
