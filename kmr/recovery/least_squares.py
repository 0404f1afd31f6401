"""Ridge regression of a layer's weights towards given outputs, centred on the present weights."""

import torch
from torch import Tensor

_MOST_STEPS = 400
_TOLERANCE = 1e-7


def refit(
    weight: Tensor,
    inputs: Tensor,
    targets: Tensor,
    *,
    keep: Tensor | None = None,
    ridge: float = 1e-3,
    intercept: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return W and b that minimise ‖Y − X·Wᵀ − b‖²/n + λ·‖W − W₀‖².

    Args:
        weight: W₀, shape (groups, outputs, k); the fit stays near it in directions with little input variance.
        inputs: X, shape (groups, n, k).
        targets: Y, shape (groups, n, outputs).
        keep: mask of the entries of W that may be non-zero, shape of `weight`; None for all.
        ridge: λ as a share of the inputs' mean square (their variance with an intercept), ≥ 0.
        intercept: fit b as well; otherwise b is 0.

    Returns:
        W in the shape and type of `weight`, and b of shape (groups, outputs).
    """
    start = weight.double() if keep is None else weight.double() * keep
    precise = torch.promote_types(inputs.dtype, torch.float32)
    centred, errors = inputs.to(precise), targets.to(precise)
    if intercept:
        mean_in, mean_out = centred.mean(1), errors.mean(1)
        centred, errors = centred - mean_in[:, None], errors - mean_out[:, None]
    errors = errors - centred @ start.to(precise).mT
    count = inputs.shape[1]
    gram = (centred.mT @ centred).double() / count
    pull = (errors.mT @ centred).double() / count
    scale = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    # A single-precision Gram matrix is accurate to about 1e-6 of its size, so a smaller ridge has no effect.
    unit = torch.eye(gram.shape[1], dtype=torch.float64, device=gram.device)
    gram = gram + unit * (max(ridge, 1e-7) * scale)[:, None, None]
    change = _solve(gram, pull) if keep is None else _solve_within(gram, pull, keep)
    fitted = start + change
    if intercept:
        shift = mean_out.double() - (fitted @ mean_in.double()[..., None])[..., 0]
    else:
        shift = torch.zeros_like(fitted[..., 0])
    return fitted.to(weight.dtype), shift.to(weight.dtype)


def _solve(gram: Tensor, pull: Tensor) -> Tensor:
    """Return D with D·G = P, by Cholesky factors."""
    return torch.cholesky_solve(pull.mT, torch.linalg.cholesky(gram)).mT


def _solve_within(gram: Tensor, pull: Tensor, keep: Tensor) -> Tensor:
    """Return the D that minimises tr(D·G·Dᵀ)/2 − tr(D·Pᵀ) and is 0 outside `keep`, by conjugate gradients.

    Every row of D has its own zeros and therefore its own linear system; all rows take their steps together.
    """
    change = torch.zeros_like(pull)
    scale = gram.diagonal(dim1=1, dim2=2)[:, None]
    residual = pull * keep
    step = residual / scale
    product = (residual * step).sum(-1, keepdim=True)
    goal = _TOLERANCE**2 * product
    direction = step
    for _ in range(_MOST_STEPS):
        along = (direction @ gram) * keep
        length = product / (direction * along).sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        change = change + length * direction
        residual = residual - length * along
        step = residual / scale
        before, product = product, (residual * step).sum(-1, keepdim=True)
        if bool((product <= goal).all()):
            break
        direction = step + product / before.clamp_min(torch.finfo(torch.float64).tiny) * direction
    return change
