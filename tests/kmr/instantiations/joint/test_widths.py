import math

import pytest
import torch
from torch import Tensor

from kmr.instantiations.joint.widths import LearnedWidth, levels_of, round_within, width_of
from kmr.representation.weights import Grid

WEIGHT = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))


def leaf(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("step", "bound"), [(0.1, 0.7), (0.25, 0.25), (0.003, 0.381)])
def test_the_width_and_its_gradients_are_those_of_the_closed_form(step: float, bound: float) -> None:
    d, q = leaf(step), leaf(bound)
    bits = width_of(d, q)
    bits.backward()
    assert float(bits.detach()) == pytest.approx(math.log2(bound / step + 1) + 1)
    assert float(d.grad) == pytest.approx(-bound / (step * (bound + step) * math.log(2)))  # type: ignore[arg-type]
    assert float(q.grad) == pytest.approx(1 / ((bound + step) * math.log(2)))  # type: ignore[arg-type]
    assert levels_of(float(bits.detach())) == pytest.approx(bound / step)


def test_a_whole_width_has_the_values_of_a_signed_integer_without_its_lowest() -> None:
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    for bits in (2, 3, 4):
        step = torch.tensor(0.25, dtype=torch.float64)
        values = round_within(x, step, step * levels_of(bits))
        codes = torch.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
        assert torch.equal(values.unique(), codes * 0.25)


def test_the_gradients_of_rounding_are_those_of_the_paper() -> None:
    x = torch.tensor([0.33, -0.9, 0.05, 1.4, -2.0], dtype=torch.float64, requires_grad=True)
    d, q = leaf(0.2), leaf(0.66)
    weigh = torch.tensor([1.0, 2.0, 3.0, 5.0, 7.0], dtype=torch.float64)
    (round_within(x, d, q) * weigh).sum().backward()
    inside = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx((weigh * inside).tolist())
    v, n = x.detach() / 0.2, 0.66 / 0.2
    sign, whole = x.detach().sign(), round(n)
    of_step = torch.where(inside == 1, v.round() - v, sign * (whole - n))
    assert float(d.grad) == pytest.approx(float((weigh * of_step).sum()))  # type: ignore[arg-type]
    assert float(q.grad) == pytest.approx(float((weigh * sign * (1 - inside)).sum()))  # type: ignore[arg-type]


def test_the_step_is_projected_on_the_bounds_of_the_width() -> None:
    learned = LearnedWidth(WEIGHT, 0, 6, 3, 6)
    for factor, width in ((4.0, math.log2(31 / 4 + 1) + 1), (100.0, 3.0), (0.5, 6.0)):
        start = LearnedWidth(WEIGHT, 0, 6, 3, 6)
        with torch.no_grad():
            learned.bound.copy_(start.bound)
            learned.step.copy_(start.step * factor)
        learned.hold()
        assert torch.equal(learned.bound, start.bound), "the range stays"
        assert learned.width == pytest.approx(width)


def test_narrowing_finds_the_range_of_least_error_among_its_candidates() -> None:
    weight = torch.cat([WEIGHT.flatten(), torch.tensor([30.0])]).reshape(1, -1)
    learned = LearnedWidth(weight, None, 8, 2, 8)
    wide = LearnedWidth(weight, None, 3, 2, 8)
    learned.narrow(3, weight)
    assert learned.width == pytest.approx(3)
    error = ((learned(weight) - weight) ** 2).sum()
    assert error <= ((wide(weight) - weight) ** 2).sum()
    assert (learned.factor == 1).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_once_fixed_it_rounds_as_the_grid_it_becomes(bits: int) -> None:
    learned = LearnedWidth(WEIGHT, 0, 8, 2, 8)
    learned.fix(bits, WEIGHT)
    assert learned.width == bits
    with torch.no_grad():
        learned.factor.mul_(torch.linspace(0.9, 1.1, 6)[:, None])
    grid = learned.grid(learned=False)
    assert isinstance(grid, Grid)
    assert grid.bits == bits
    assert torch.equal(grid(WEIGHT), learned(WEIGHT))
    assert torch.equal(grid(grid(WEIGHT)), grid(WEIGHT))
    learned(WEIGHT).square().sum().backward()
    assert learned.bound.grad is None, "the range is no more than the step says"
    assert learned.step.grad is not None
    assert learned.factor.grad is not None


def test_a_weight_of_zeros_has_a_quantizer_too() -> None:
    zeros = torch.zeros(3, 4)
    learned = LearnedWidth(zeros, 0, 8, 2, 8)
    learned.narrow(4, zeros)
    assert torch.equal(learned(zeros), zeros)
    learned.fix(2, zeros)
    assert torch.equal(learned(zeros), zeros)
