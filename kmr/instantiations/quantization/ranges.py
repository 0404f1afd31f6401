"""Ranges for grids of activations: five methods to choose them from calibration statistics.

Calibration makes two passes: the first records the smallest and largest value of each batch, the second a histogram
between the overall extremes. `minmax` and `moving_average` need the first pass only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

BINS = 2048


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Calibration statistics of one tensor.

    Args:
        lows: the smallest value of each batch, in order, (batches,).
        highs: the largest value of each batch, (batches,).
        histogram: counts in `BINS` equal bins between the smallest of `lows` and the largest of `highs`.
    """

    lows: Tensor
    highs: Tensor
    histogram: Tensor

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.lows.min())

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.highs.max())

    @property
    def centers(self) -> Tensor:
        """The centre of each bin."""
        width = (self.high - self.low) / len(self.histogram)
        return self.low + width * (torch.arange(len(self.histogram), dtype=torch.float64) + 0.5)


Range: TypeAlias = Callable[[TensorStatistics, int], tuple[float, float]]
"""A function of (statistics, bits) that returns the range (low, high) to cover."""


def minmax(seen: TensorStatistics, bits: int) -> tuple[float, float]:
    """Cover all observed values."""
    return seen.low, seen.high


def moving_average(seen: TensorStatistics, bits: int, momentum: float = 0.9) -> tuple[float, float]:
    """Cover the exponential averages of the batches' extremes (Jacob et al. 2018, section 3.1)."""
    low, high = float(seen.lows[0]), float(seen.highs[0])
    for batch_low, batch_high in zip(seen.lows[1:].tolist(), seen.highs[1:].tolist(), strict=True):
        low = momentum * low + (1 - momentum) * batch_low
        high = momentum * high + (1 - momentum) * batch_high
    return low, high


def percentile(seen: TensorStatistics, bits: int, kept: float = 0.9999) -> tuple[float, float]:
    """Clip the same share of values at both ends, (1 − kept)/2 each."""
    below = torch.cumsum(seen.histogram.double(), 0)
    tail = (1 - kept) / 2 * below[-1]
    width = (seen.high - seen.low) / len(seen.histogram)
    first = int((below <= tail).sum())
    last = int((below < below[-1] - tail).sum())
    return seen.low + width * first, seen.low + width * (last + 1)


def least_squares(seen: TensorStatistics, bits: int, candidates: int = 100) -> tuple[float, float]:
    """Cover the share of the range whose grid has the least squared error."""
    x, weight = seen.centers, seen.histogram.double()
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    steps = 2.0**bits - 1
    best = (float("inf"), low, high)
    for share in torch.linspace(1.0, 0.1, candidates, dtype=torch.float64).tolist():
        scale = (high - low) * share / steps
        if not scale > 0:
            break
        zero_point = round(-low * share / scale)
        codes = torch.clamp(torch.round(x / scale) + zero_point, 0, steps)
        error = float((weight * (scale * (codes - zero_point) - x).square()).sum())
        if error < best[0]:
            best = (error, low * share, high * share)
    return best[1], best[2]


def entropy(seen: TensorStatistics, bits: int, stride: int = 8) -> tuple[float, float]:
    """Clip magnitudes at the threshold whose quantized distribution loses the least information (Migacz 2017).

    For each threshold, P is the clipped distribution with its tail in the last bin, and Q spreads its values evenly
    over the levels of the grid. The threshold with the least KL(P ‖ Q) wins.
    """
    edge = max(-seen.low, seen.high)
    if not edge > 0:
        return seen.low, seen.high
    levels = 2**bits if seen.low >= 0 or seen.high <= 0 else 2 ** (bits - 1)
    bins = len(seen.histogram)
    places = (seen.centers.abs() / edge * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, seen.histogram.double())
    # 0 is a level at any threshold, so the many zeros after a ReLU must not favour narrow bins around it.
    counts[0] = counts[1]
    best = (float("inf"), bins)
    for kept in range(min(levels, bins), bins + 1, stride):
        divergence = _divergence(counts, kept, levels)
        if divergence < best[0]:
            best = (divergence, kept)
    threshold = edge * best[1] / bins
    return max(seen.low, -threshold), min(seen.high, threshold)


RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "minmax": minmax,
        "moving_average": moving_average,
        "percentile": percentile,
        "mse": least_squares,
        "entropy": entropy,
    }
)


def _divergence(counts: Tensor, kept: int, levels: int) -> float:
    inner = counts[:kept]
    clipped = inner.clone()
    clipped[-1] += counts[kept:].sum()
    level = torch.arange(kept) * levels // kept
    filled = (inner > 0).double()
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, inner)
    places = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, filled)
    spread = filled * (mass / places.clamp(min=1))[level]
    p, q = clipped / clipped.sum(), spread / spread.sum().clamp(min=1e-300)
    there = p > 0
    # A bin with only the tail is empty in Q; the clamp keeps its divergence finite.
    return float((p[there] * (p[there] / q[there].clamp(min=1e-12)).log()).sum())
