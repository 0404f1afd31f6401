"""The best approximation of a matrix as a product of two thin ones, in its own norm or in that of its inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 1e-6
"""Floor of a direction's input energy, as a share of the mean: an error in no direction is free."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A matrix as left · diag(singular) · right.

    Args:
        left: shape (m, k).
        singular: shape (k,), descending; the error of rank r is the norm of those past r.
        right: shape (k, n).
        dtype: of the matrix.
    """

    left: Tensor
    singular: Tensor
    right: Tensor
    dtype: torch.dtype

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return `first` (rank, n) and `second` (m, rank), each carrying the square root of the singular values."""
        root = self.singular[:rank].sqrt()
        return (root[:, None] * self.right[:rank]).to(self.dtype), (self.left[:, :rank] * root).to(self.dtype)


def spectrum(matrix: Tensor, moment: Tensor | None = None) -> Spectrum:
    """Decompose a matrix.

    Args:
        matrix: W, of shape (m, n).
        moment: C = mean of x·xᵀ over inputs x, of shape (n, n): the approximation of each rank is then the one with the
            least mean ‖(W − Ŵ)x‖². With S = C^½ that is Ŵ = [W·S]ᵣ·S⁻¹, where [·]ᵣ keeps r singular values (DRONE, Chen
            et al. 2021; SVD-LLM, Wang et al. 2024). None minimises ‖W − Ŵ‖².
    """
    if moment is None:
        precise = matrix if matrix.dtype == torch.float64 else matrix.float()
        left, singular, right = torch.linalg.svd(precise, full_matrices=False)
        return Spectrum(left, singular, right, matrix.dtype)
    energy, directions = torch.linalg.eigh(moment.to(matrix.device))
    strength = energy.clamp(min=float(energy.clamp(min=0).mean()) * _FLOOR).clamp(min=1e-30).sqrt()
    # S = C^½ turned into its own directions, which leaves the singular values as they are and needs no product more.
    left, singular, right = torch.linalg.svd(matrix.double() @ directions * strength, full_matrices=False)
    return Spectrum(left, singular, right / strength @ directions.T, matrix.dtype)


def truncated_factors(matrix: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the best approximation of a rank as a product, `second @ first`.

    Args:
        matrix: of shape (m, n).
        rank: r, 1 to min(m, n).
        moment: of the inputs, as for `spectrum`.

    Returns:
        `first` of shape (r, n) and `second` of shape (m, r).
    """
    return spectrum(matrix, moment).factors(rank)
