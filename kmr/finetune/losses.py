"""Losses of (outputs, targets) that `torch.nn.functional` does not have."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional as F

from kmr.core import KMRError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A loss of (outputs, targets): a scalar mean over the batch."""


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error; outputs of shape (n, 1) are reshaped to targets of shape (n,)."""
    if outputs.numel() != targets.numel():
        raise KMRError(f"outputs of shape {tuple(outputs.shape)} do not match targets of shape {tuple(targets.shape)}")
    return F.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))


def token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over all tokens except those with target −100.

    Args:
        outputs: logits of shape (n, length, vocabulary).
        targets: the token to predict at each position, of shape (n, length).

    Raises:
        KMRError: the shapes do not match.
    """
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        raise KMRError(
            f"logits of shape {tuple(outputs.shape)} do not match targets of shape {tuple(targets.shape)}: "
            "they must be (n, length, vocabulary) and (n, length)"
        )
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def next_token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the `token_cross_entropy` of predicting each next token; the targets are the input tokens."""
    return token_cross_entropy(outputs[:, :-1], targets[:, 1:])
