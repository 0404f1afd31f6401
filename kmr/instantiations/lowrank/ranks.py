"""Which rank a matrix is cut to: by what its factors hold, the energy they keep, its full rank, or noise."""

import math

from torch import Tensor

from kmr.core import FloatRange

RANKINGS = ("parameters", "energy", "rank", "vbmf")

FROM_ZERO = FloatRange(0.0, 1.0, neutral=1.0)
"""Of a value by vbmf, which means something down to 0."""


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
    """Return the rank this share of the way from a low one (0 counts as 1) to the full one, rounded half up."""
    start = max(1, low)
    return start + math.floor(share * (full - start) + 0.5)


def share_rank(matrix_shape: tuple[int, int], share: float) -> int:
    """Return this share of the full rank, to the nearest whole number (halves up) and at least 1."""
    return max(1, math.floor(share * min(matrix_shape) + 0.5))
