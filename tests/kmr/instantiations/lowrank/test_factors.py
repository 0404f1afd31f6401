import pytest
import torch
from torch import Tensor

from kmr.instantiations.lowrank import spectrum, truncated_factors


def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    # Inputs far stronger in some directions, and correlated.
    mix = torch.randn(9, 9, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, 9, dtype=torch.float64)
    return weight, mix @ torch.randn(9, 400, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_no_other_factors_of_that_rank_have_a_smaller_output_error(rank: int) -> None:
    weight, x = example()
    moment = x @ x.T / x.shape[1]
    first, second = truncated_factors(weight, rank, moment)
    error = ((weight - second @ first) @ x).square().sum()
    # Eckart–Young on W·X itself: an independent way to the optimum.
    singular = torch.linalg.svdvals(weight @ x)
    torch.testing.assert_close(error, singular[rank:].square().sum())
    plain_first, plain_second = truncated_factors(weight, rank)
    assert error < ((weight - plain_second @ plain_first) @ x).square().sum()
    torch.testing.assert_close(
        spectrum(weight, moment).singular[:6], singular[:6] / x.shape[1] ** 0.5, rtol=1e-8, atol=1e-8
    )


def test_inputs_of_one_strength_give_the_plain_factors() -> None:
    weight, _ = example()
    first, second = truncated_factors(weight, 3, 4 * torch.eye(9, dtype=torch.float64))
    plain_first, plain_second = truncated_factors(weight, 3)
    torch.testing.assert_close(second @ first, plain_second @ plain_first)


def test_directions_that_no_input_has_stay_finite_and_are_kept_where_there_is_room() -> None:
    weight, x = example()
    x[5:] = 0
    first, second = truncated_factors(weight, 6, x @ x.T / 400)
    assert torch.isfinite(first).all()
    torch.testing.assert_close(second @ first, weight)
    nothing = truncated_factors(weight, 6, torch.zeros(9, 9, dtype=torch.float64))
    torch.testing.assert_close(nothing[1] @ nothing[0], weight)
