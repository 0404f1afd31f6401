"""Losses of (outputs, targets) beside those of `torch.nn.functional`."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional as F

from kmr.core import KMRError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Of (outputs, targets), a scalar mean over the batch."""


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error; outputs of shape (n, 1) are read as (n,) where the targets are."""
    if outputs.numel() != targets.numel():
        raise KMRError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    return F.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))


def token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over all tokens but those whose target is −100.

    Args:
        outputs: logits, of shape (n, length, vocabulary).
        targets: the token that each position is to predict, of shape (n, length).
    """
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        raise KMRError(
            f"logits of shape (n, length, vocabulary) go with targets of shape (n, length), not "
            f"{tuple(outputs.shape)} with {tuple(targets.shape)}"
        )
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def next_token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `token_cross_entropy` of each position with the token after it: the targets are the input tokens."""
    return token_cross_entropy(outputs[:, :-1], targets[:, 1:])
