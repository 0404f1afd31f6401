"""Which rank a matrix is cut to: by what its factors hold, by the energy they keep, or by its full rank."""

import math

from torch import Tensor

RANKINGS = ("parameters", "energy", "rank")


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


def share_rank(matrix_shape: tuple[int, int], share: float) -> int:
    """Return this share of the full rank, to the nearest whole number (halves up) and at least 1."""
    return max(1, math.floor(share * min(matrix_shape) + 0.5))
