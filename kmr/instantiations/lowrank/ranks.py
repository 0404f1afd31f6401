"""Rank rules for a matrix: by the size of its factors, the energy they keep, the full rank, or the noise in it."""

import math

from torch import Tensor

from kmr.core import FloatRange

RANKINGS = ("parameters", "energy", "rank", "vbmf")

FROM_ZERO = FloatRange(0.0, 1.0, neutral=1.0)
"""Domain of the value where `by` = vbmf: 0 is the rank that stands out from noise."""


def kept_rank(matrix_shape: tuple[int, int], keep: float) -> int:
    """Return the largest rank whose two factors hold at most this share of the matrix's entries, at least 1."""
    rows, columns = matrix_shape
    return max(1, math.floor(keep * rows * columns / (rows + columns) + 1e-9))


def energy_rank(singular: Tensor, energy: float) -> int:
    """Return the smallest rank that keeps this share of the sum of the squared singular values, at least 1.

    Args:
        singular: descending.
        energy: 0 to 1.
    """
    squares = singular.double().square().cumsum(0)
    short = squares < energy * squares[-1] * (1 - 1e-12)
    return min(len(singular), int(short.sum()) + 1)


def rank_between(low: int, full: int, share: float) -> int:
    """Interpolate between a low rank (0 counts as 1) and the full one, rounded half up."""
    start = max(1, low)
    return start + math.floor(share * (full - start) + 0.5)


def share_rank(matrix_shape: tuple[int, int], share: float) -> int:
    """Return this share of the full rank, to the nearest whole number (halves up) and at least 1."""
    return max(1, math.floor(share * min(matrix_shape) + 0.5))
