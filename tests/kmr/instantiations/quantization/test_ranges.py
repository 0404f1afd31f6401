import math

import pytest
import torch

from kmr.instantiations.quantization.ranges import (
    BINS,
    RANGES,
    TensorStatistics,
    entropy,
    least_squares,
    moving_average,
    percentile,
)


def seen_of(*batches: torch.Tensor) -> TensorStatistics:
    lows, highs = (torch.stack([f(b) for b in batches]).double() for f in (torch.min, torch.max))
    every = torch.cat(batches)
    return TensorStatistics(lows, highs, torch.histc(every.double(), BINS, float(lows.min()), float(highs.max())))


def test_minmax_and_moving_average_by_hand() -> None:
    seen = seen_of(torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 4.0]))
    assert RANGES["minmax"](seen, 8) == (-3.0, 4.0)
    assert moving_average(seen, 8) == pytest.approx((-1.2, 2.2))


def test_percentile_leaves_out_the_tails() -> None:
    low, high = percentile(seen_of(torch.arange(10_000.0)), 8, kept=0.9)
    assert (low, high) == pytest.approx((500, 9500), abs=10)
    one_sided = torch.cat([torch.zeros(5000), torch.rand(5000)])
    assert percentile(seen_of(one_sided), 8)[0] == 0


def test_least_squares_beats_every_other_share_it_could_take() -> None:
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).double()
    low, high = least_squares(seen_of(x), 4)

    def error(low: float, high: float) -> float:
        scale = (high - low) / 15
        zero = round(-low / scale)
        rounded = scale * (torch.clamp(torch.round(x / scale) + zero, 0, 15) - zero)
        return float((rounded - x).square().mean())

    # The optimal uniform 4-bit quantizer of a Gaussian spans about ±2.5σ and has an error of about 0.0115 σ².
    assert error(low, high) == pytest.approx(0.0115, rel=0.08)
    assert error(low, high) < 0.6 * error(float(x.min()), float(x.max()))


def test_entropy_minds_no_zeros() -> None:
    # Half of what a ReLU returns is exactly 0, which every grid holds.
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).relu()
    for bits in (8, 4):
        assert entropy(seen_of(x), bits)[1] > 1.9


def test_entropy_clips_a_long_tail_and_keeps_a_uniform_range() -> None:
    generator = torch.Generator().manual_seed(0)
    heavy = torch.cat([torch.rand(100_000, generator=generator), torch.tensor([20.0])])
    assert entropy(seen_of(heavy), 8)[1] < 3.0
    uniform = torch.rand(100_000, generator=generator)
    assert entropy(seen_of(uniform), 8)[1] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", RANGES)
def test_a_constant_has_a_finite_range(name: str) -> None:
    for constant in (0.0, 3.0, -2.0):
        low, high = RANGES[name](seen_of(torch.full((4,), constant)), 8)
        assert math.isfinite(low)
        assert math.isfinite(high)
        assert low <= high
