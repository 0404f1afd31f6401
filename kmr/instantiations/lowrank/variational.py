"""Rank of a noisy matrix by empirical variational Bayesian matrix factorization, solved analytically.

Nakajima, Sugiyama, Babacan and Tomioka, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization" (JMLR 2013): with the noise variance known and the priors estimated, a singular value belongs to the
signal where it is above a threshold; the noise variance minimises a function of one variable between two bounds.
Kim et al. (2016) choose the ranks of Tucker decompositions with it, on the unfoldings along both modes of channels.
"""

import math

import torch
from torch import Tensor

_STEPS = 512
"""Values of the noise variance that are tried between the bounds, before the best is refined."""


def variational_rank(singular: Tensor, shape: tuple[int, int]) -> int:
    """Return how many singular values of a matrix stand out from the noise in it.

    Args:
        singular: all of them, descending, of shape (min(m, n),).
        shape: (m, n).

    Returns:
        The rank, 0 where all is noise.
    """
    if not bool(singular[:1].any()):
        return 0
    return int((singular.double() > noise_threshold(noise_variance(singular, shape), shape)).sum())


def noise_threshold(variance: float, shape: tuple[int, int]) -> float:
    """Return the singular value above which a signal lies: √(M σ² (1 + τ)(1 + α / τ)), with L ≤ M and α = L / M."""
    return math.sqrt(max(shape) * variance * _ratio_bound(min(shape) / max(shape)))


def noise_variance(singular: Tensor, shape: tuple[int, int]) -> float:
    """Estimate the variance of the noise in a matrix that is not 0.

    Args:
        singular: as for `variational_rank`.
        shape: as for `variational_rank`.
    """
    small, large = sorted(shape)
    alpha = small / large
    bound = _ratio_bound(alpha)
    squares = singular.double().cpu().square()
    # Of an exactly low-rank matrix the noise is as small as rounding.
    squares = squares.clamp(min=float(squares[0]) * 1e-14)
    last = min(math.ceil(small / (1 + alpha)) - 1, small - 1)
    lowest = max(float(squares[last]) / (large * bound), float(squares[last:].mean()) / large)
    highest = float(squares.sum()) / (small * large)

    def energy(logs: Tensor) -> Tensor:
        return _free_energy(squares / (large * logs.exp()[:, None]), alpha, bound)

    low, high = math.log(lowest), math.log(max(highest, lowest))
    for _ in range(3):
        # There may be several minima: try values between the bounds first, then closer ones around the best.
        logs = torch.linspace(low, high, _STEPS, dtype=torch.float64)
        best = int(energy(logs).argmin())
        low, high = float(logs[max(0, best - 1)]), float(logs[min(_STEPS - 1, best + 1)])
    return math.exp(float(logs[best]))


def _free_energy(ratios: Tensor, alpha: float, bound: float) -> Tensor:
    """Return the free energy, but for a constant, of squared singular values over M σ², for each row of them."""
    noise = ratios - ratios.log()
    # Below the bound this branch is not used; the clamp keeps it finite.
    signal = ratios.clamp(min=bound)
    shrunk = 0.5 * (signal - (1 + alpha) + ((signal - (1 + alpha)).square() - 4 * alpha).clamp(min=0).sqrt())
    kept = signal - shrunk + ((shrunk + 1) / signal).log() + alpha * (shrunk / alpha + 1).log()
    return torch.where(ratios > bound, kept, noise).sum(1)


def _ratio_bound(alpha: float) -> float:
    """Return (1 + τ)(1 + α / τ), with τ the zero of Φ(τ) + Φ(τ / α), Φ(z) = log(z + 1) / z − 1 / 2, by bisection."""
    low, high = 1e-6, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        falls = sum(math.log1p(z) / z - 0.5 for z in (middle, middle / alpha))
        low, high = (middle, high) if falls > 0 else (low, middle)
    return (1 + low) * (1 + alpha / low)
