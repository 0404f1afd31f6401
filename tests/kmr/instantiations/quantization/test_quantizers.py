import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.instantiations.quantization import (
    QUANTIZERS,
    affine_grid,
    channel_dim,
    fit_grid,
    fit_like,
    kmr_grid,
    midrise_grid,
    symmetric_grid,
)
from kmr.instantiations.quantization.quantizers import SHRINKS
from kmr.representation.weights import WeightState


def flat(grid: tuple[Tensor, Tensor]) -> tuple[list[float], list[float]]:
    return grid[0].reshape(-1).tolist(), grid[1].reshape(-1).tolist()


def test_affine_by_hand() -> None:
    # Range −1…2 on 3 steps: Δ = 1, and 0 is code 1.
    weight = torch.tensor([[-1.0, 0.4, 2.0]])
    assert flat(affine_grid(weight, 2)) == ([1.0], [1.0])
    grid = fit_grid(weight, 2)
    assert grid.codes(weight).tolist() == [[0.0, 1.0, 3.0]]
    assert grid(weight).tolist() == [[-1.0, 0.0, 2.0]]


def test_affine_holds_0_where_all_weights_have_one_sign() -> None:
    assert flat(affine_grid(torch.tensor([[3.0, 6.0], [-3.0, -6.0]]), 2, 0)) == ([2.0, 2.0], [0.0, 3.0])


def test_symmetric_by_hand() -> None:
    # ±3 on the codes −3…3 of 3 bits, stored from 1 to 7.
    weight = torch.tensor([[-3.0, 0.0, 1.4]])
    assert flat(symmetric_grid(weight, 3)) == ([1.0], [4.0])
    assert fit_grid(weight, 3, scheme="symmetric").codes(weight).tolist() == [[1.0, 4.0, 5.0]]


def test_kmr_by_hand() -> None:
    # Δ = (5 − 2)/3 = 1: multiples 2, 3, 4, 5.
    weight = torch.tensor([[2.0, 3.2, 5.0]])
    assert flat(kmr_grid(weight, 2)) == ([1.0], [-2.0])
    grid = fit_grid(weight, 2, scheme="kmr")
    assert grid.codes(weight).tolist() == [[0.0, 1.0, 3.0]]
    assert grid(weight).tolist() == [[2.0, 3.0, 5.0]]


def test_kmr_clamps_where_the_paper_would_use_a_level_too_many() -> None:
    weight = torch.linspace(-1.5, 1.5, 31)[None]
    assert len((weight.round()).unique()) == 5
    values = fit_grid(weight, 2, scheme="kmr")(weight)
    assert values.unique().tolist() == [-2.0, -1.0, 0.0, 1.0]
    assert float((values - weight).abs().max()) == pytest.approx(0.5)


def test_midrise_by_hand() -> None:
    # ±3 on four levels: −3, −1, 1, 3.
    weight = torch.tensor([[-3.0, 0.1, 1.4]])
    assert flat(midrise_grid(weight, 2)) == ([2.0], [1.5])
    assert fit_grid(weight, 2, scheme="midrise")(weight).tolist() == [[-3.0, 1.0, 1.0]]


@pytest.mark.parametrize("scheme", QUANTIZERS)
def test_1_bit_is_the_sign_times_the_mean_magnitude(scheme: str) -> None:
    weight = torch.tensor([[-3.0, 0.5, 1.0], [2.0, 2.0, -8.0], [0.0, 0.0, 0.0]])
    values = fit_grid(weight, 1, scheme=scheme, dim=0)(weight)
    assert values.tolist() == [[-1.5, 1.5, 1.5], [4.0, 4.0, -4.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("scheme", ["affine", "symmetric", "midrise"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clipping_by_least_squares_beats_the_range_and_every_share_tried(scheme: str, bits: int) -> None:
    weight = torch.randn(3, 400, generator=torch.Generator().manual_seed(bits))
    clipped = fit_grid(weight, bits, scheme=scheme, dim=0, clip="mse")
    whole = fit_grid(weight, bits, scheme=scheme, dim=0)
    least = (clipped(weight) - weight).square().sum(1)
    assert bool((least < (whole(weight) - weight).square().sum(1)).all())
    for share in SHRINKS:
        other = fit_grid(torch.stack([weight.amin(1), weight.amax(1)], 1) * share, bits, scheme=scheme, dim=0)
        assert bool((least <= (other(weight) - weight).square().sum(1) * 1.0001).all())


@pytest.mark.parametrize("scheme", ["affine", "symmetric", "midrise", "kmr"])
def test_scales_that_are_powers_of_two_cover_the_range(scheme: str) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(weight, 4, scheme=scheme, dim=0, power_of_two=True)
    plain = fit_grid(weight, 4, scheme=scheme, dim=0)
    assert torch.equal(torch.log2(grid.scale), torch.log2(grid.scale).round())
    assert bool(((grid.scale >= plain.scale) & (grid.scale < 2 * plain.scale)).all())
    assert bool(((grid(weight) - weight).abs() <= grid.scale * 0.501).all())


@pytest.mark.parametrize("group", [1, 4, 5, 12, 100])
def test_a_group_has_the_grid_it_would_have_alone(group: int) -> None:
    weight = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    values = fit_grid(weight, 3, group=group)(weight)
    for row, rounded in zip(weight.flatten(1), values.flatten(1), strict=True):
        for part, found in zip(row.split(group), rounded.split(group), strict=True):
            assert torch.equal(found, fit_grid(part[None], 3)(part[None])[0])


@pytest.mark.parametrize("scheme", QUANTIZERS)
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_constant_and_zero_channels(scheme: str, bits: int) -> None:
    weight = torch.tensor([[0.0, 0.0], [0.7, 0.7], [-0.7, -0.7], [1e-45, 0.0]])
    values = fit_grid(weight, bits, scheme=scheme, dim=0)(weight)
    assert torch.isfinite(values).all()
    torch.testing.assert_close(values, weight, rtol=1e-6, atol=1e-30)


def test_kmr_far_from_0_keeps_whole_codes() -> None:
    weight = torch.tensor([[1e6, 1e6 + 0.25, 1e6 + 0.5]])
    values = fit_grid(weight, 8, scheme="kmr")(weight)
    torch.testing.assert_close(values, weight, rtol=1e-6, atol=0)


weights = st.integers(0, 2**31).map(
    lambda seed: (
        torch.randn(3, 17, generator=torch.Generator().manual_seed(seed)) * torch.tensor([[0.01], [1.0], [30.0]])
        + torch.randint(-1, 2, (3, 1), generator=torch.Generator().manual_seed(seed + 1))
    )
)


@pytest.mark.parametrize("scheme", QUANTIZERS)
@settings(deadline=None)
@given(weight=weights, bits=st.integers(2, 8), by_channel=st.booleans())
def test_codes_levels_and_error(scheme: str, weight: Tensor, bits: int, by_channel: bool) -> None:
    grid = fit_grid(weight, bits, scheme=scheme, dim=0 if by_channel else None)
    codes = grid.codes(weight)
    assert torch.equal(codes, codes.round())
    assert float(codes.min()) >= 0
    assert float(codes.max()) <= 2**bits - 1
    half = 2 * grid.zero_point if scheme == "midrise" else grid.zero_point
    assert torch.equal(half, half.round())
    assert grid.scale.shape == grid.zero_point.shape == ((3, 1) if by_channel else (1, 1))
    values = grid(weight)
    assert all(len(row.unique()) <= 2**bits for row in values)
    assert bool(((values - weight).abs() <= grid.scale * 0.501).all())
    if scheme in ("affine", "symmetric"):
        assert bool((grid(torch.zeros_like(weight)) == 0).all())


@pytest.mark.parametrize("scheme", QUANTIZERS)
@settings(deadline=None)
@given(weight=weights, bits=st.integers(2, 8))
def test_fitting_again_to_what_is_on_the_grid_changes_nothing_to_speak_of(
    scheme: str, weight: Tensor, bits: int
) -> None:
    once = fit_grid(weight, bits, scheme=scheme, dim=0)(weight)
    torch.testing.assert_close(fit_grid(once, bits, scheme=scheme, dim=0)(once), once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_affine_equals_torch_bit_for_bit(bits: int) -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(bits))
    grid = fit_grid(weight, bits, dim=0)
    scale, zero_point = grid.scale.reshape(-1), grid.zero_point.reshape(-1)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zero_point.int(), 0, 0, 2**bits - 1)
    assert torch.equal(grid(weight), expected)
    tensor = fit_grid(weight, bits)
    expected = torch.fake_quantize_per_tensor_affine(
        weight, float(tensor.scale), int(tensor.zero_point), 0, 2**bits - 1
    )
    assert torch.equal(tensor(weight), expected)


def test_symmetric_8_bits_equal_torch_codes_bit_for_bit() -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    grid = fit_grid(weight, 8, scheme="symmetric", dim=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in torch, but its own implementation
        quantized = torch.quantize_per_channel(weight, grid.scale.reshape(-1).double(), torch.zeros(5), 0, torch.qint8)
    assert torch.equal(grid.codes(weight) - 128, quantized.int_repr().float())
    assert torch.equal(grid(weight), quantized.dequantize())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scheme", QUANTIZERS)
def test_other_precisions(dtype: torch.dtype, scheme: str) -> None:
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    grid = fit_grid(weight, 4, scheme=scheme, dim=0)
    values = grid(weight)
    assert values.dtype == grid.scale.dtype == dtype
    assert all(len(row.unique()) <= 16 for row in values)
    assert bool(((values - weight).abs() <= grid.scale * 0.6).all())


@pytest.mark.parametrize("scheme", QUANTIZERS)
@pytest.mark.parametrize("dim", [None, 0])
def test_fit_like_keeps_bits_scheme_and_granularity(scheme: str, dim: int | None) -> None:
    offset = 3.0 if scheme == "kmr" else 0.0
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) + offset
    other = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    grid = fit_grid(weight, 3, scheme=scheme, dim=dim)
    like = fit_like(WeightState(grid(weight), grid), other, 0)
    expected = fit_grid(other, 3, scheme=scheme, dim=dim)
    assert like.bits == 3
    assert torch.equal(like.scale, expected.scale)
    assert torch.equal(like.zero_point, expected.zero_point)


def test_output_channels_of_every_kind_of_layer() -> None:
    assert channel_dim(nn.Linear(2, 3)) == channel_dim(nn.Conv1d(2, 3, 1)) == channel_dim(nn.Embedding(3, 2)) == 0
    assert channel_dim(nn.ConvTranspose2d(2, 3, 1)) == 1
    assert channel_dim(nn.ConvTranspose2d(4, 6, 1, groups=2)) == 1
    assert channel_dim(nn.ConvTranspose2d(4, 4, 1, groups=4)) == 0


def test_unknown_requests_are_refused() -> None:
    with pytest.raises(KMRError, match="affine, symmetric, midrise, kmr"):
        fit_grid(torch.ones(2, 2), 4, scheme="log")
    with pytest.raises(KMRError, match="no grid to imitate"):
        fit_like(WeightState(torch.ones(2, 2)), torch.ones(2, 2), 0)
    with pytest.raises(KMRError, match="at least 1 bit"):
        affine_grid(torch.ones(2, 2), 0)
