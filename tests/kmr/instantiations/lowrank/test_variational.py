import math

import pytest
import torch
from torch import Tensor

from kmr.instantiations.lowrank.variational import _ratio_bound, noise_threshold, noise_variance, variational_rank


def noisy(rows: int, columns: int, rank: int, noise: float, seed: int = 0) -> Tensor:
    """A product of two matrices of standard normal entries and noise of that deviation."""
    generator = torch.Generator().manual_seed(seed)
    left, right, rest = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, rank), (rank, columns), (rows, columns))
    )
    return left @ right + noise * rest


def rank_of(matrix: Tensor) -> int:
    return variational_rank(torch.linalg.svdvals(matrix), (matrix.shape[0], matrix.shape[1]))


@pytest.mark.parametrize("shape", [(40, 40), (30, 120), (120, 30), (64, 576)])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_rank_of_a_product_is_found_in_noise(shape: tuple[int, int], rank: int) -> None:
    for seed, noise in enumerate((1e-6, 0.1, 0.5)):
        matrix = noisy(*shape, rank, noise, seed)
        assert rank_of(matrix) == rank
        assert rank_of(1e3 * matrix) == rank_of(matrix.T) == rank
        variance = noise_variance(torch.linalg.svdvals(matrix), shape)
        assert variance == pytest.approx(noise**2, rel=0.25)


def test_noise_alone_has_rank_zero() -> None:
    assert [rank_of(noisy(50, 80, 1, 1e4, seed)) for seed in range(5)] == [0] * 5
    assert rank_of(torch.zeros(4, 5)) == 0


def test_without_noise_it_is_the_rank() -> None:
    assert rank_of(noisy(20, 30, 3, 0.0)) == 3
    assert rank_of(noisy(20, 30, 3, 0.0).float()) == 3


def test_the_threshold_by_hand() -> None:
    # α = 1: log(τ + 1) / τ = 1/2 has the zero 2.51286…, the paper's constant.
    tau = 2.5128624
    assert _ratio_bound(1.0) == pytest.approx((1 + tau) * (1 + 1 / tau), rel=1e-6)
    assert noise_threshold(0.25, (9, 9)) == pytest.approx(math.sqrt(9 * 0.25 * (1 + tau) * (1 + 1 / tau)), rel=1e-6)
    # The paper's approximation for other shapes: τ ≈ 2.5129 √α.
    for alpha in (0.1, 0.5):
        close = 2.5129 * math.sqrt(alpha)
        assert _ratio_bound(alpha) == pytest.approx((1 + close) * (1 + alpha / close), rel=0.02)
    # It lies above all singular values of noise (Marchenko and Pastur 1967), M σ² (1 + √α)².
    assert all(_ratio_bound(alpha) > (1 + math.sqrt(alpha)) ** 2 for alpha in (0.05, 0.3, 1.0))


def test_the_variance_is_where_the_free_energy_of_the_paper_is_least() -> None:
    matrix = noisy(12, 20, 2, 0.4)
    singular, (small, large) = torch.linalg.svdvals(matrix), (12, 20)
    alpha, bound = small / large, _ratio_bound(small / large)

    def free_energy(variance: float) -> float:
        """Ω(σ⁻²) of Nakajima et al. 2013, entry by entry."""
        total = 0.0
        for value in singular.tolist():
            x = value**2 / (large * variance)
            total += x - math.log(x)
            if x > bound:
                tau = 0.5 * (x - (1 + alpha) + math.sqrt((x - (1 + alpha)) ** 2 - 4 * alpha))
                total += math.log(tau + 1) + alpha * math.log(tau / alpha + 1) - tau
        return total

    found = noise_variance(singular, (12, 20))
    around = [found * factor for factor in (0.5, 0.8, 0.95, 0.999, 1.001, 1.05, 1.2)]
    assert all(free_energy(found) <= free_energy(other) for other in around)
