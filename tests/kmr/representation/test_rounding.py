import pytest
import torch

from kmr.representation.rounding import fake_quantize, from_codes, to_codes


def test_codes_by_hand() -> None:
    # Half to even, then the zero point, then clamped to 2 bits.
    x = torch.tensor([-9.0, -0.5, 0.5, 1.5, 9.0])
    codes = to_codes(x, torch.tensor(1.0), torch.tensor(1.0), 2)
    assert codes.tolist() == [0.0, 1.0, 1.0, 3.0, 3.0]
    assert from_codes(codes, torch.tensor(1.0), torch.tensor(1.0)).tolist() == [-1.0, 0.0, 0.0, 2.0, 2.0]


def test_a_half_zero_point_has_levels_on_both_sides_of_0_and_none_there() -> None:
    x = torch.tensor([-5.0, -0.1, 0.1, 0.9, 1.1, 5.0])
    zero = torch.tensor(1.5)
    assert fake_quantize(x, torch.tensor(1.0), zero, 2).tolist() == [-1.5, -0.5, 0.5, 0.5, 1.5, 1.5]
    one_bit = fake_quantize(x, torch.tensor(2.0), torch.tensor(0.5), 1)
    assert torch.equal(one_bit, x.sign())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16])
def test_never_a_level_too_many(bits: int) -> None:
    x = torch.linspace(-3, 3, 200_001)
    scale = torch.tensor(4.0 / 2**bits)
    for zero in (0.0, 2.0 ** (bits - 1), (2.0**bits - 1) / 2):
        values = fake_quantize(x, scale, torch.tensor(zero), bits)
        assert len(values.unique()) <= 2**bits


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_and_gradients_equal_torch_bit_for_bit(bits: int) -> None:
    # Scales that are powers of two: torch multiplies by the reciprocal, ONNX and this divide; here both are exact.
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(6, 50, generator=generator)
    scale = torch.exp2(torch.randint(-6, 0, (6,), generator=generator).float())
    zero = torch.randint(0, 2**bits, (6,), generator=generator)
    upstream = torch.randn(6, 50, generator=generator)
    ours = [t.clone().requires_grad_() for t in (x, scale.view(-1, 1), zero.float().view(-1, 1))]
    theirs = [t.clone().requires_grad_() for t in (x, scale, zero.float())]
    mine = fake_quantize(*ours, bits, 0.25)
    reference = torch._fake_quantize_learnable_per_channel_affine(*theirs, 0, 0, 2**bits - 1, 0.25)
    assert torch.equal(mine, reference)
    mine.backward(upstream)
    reference.backward(upstream)
    assert torch.equal(ours[0].grad, theirs[0].grad)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one.grad.reshape(-1), other.grad, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_step_by_hand() -> None:
    # Esser et al. 2020, eq. 3: round(x/s) − x/s inside, the outermost code outside.
    x = torch.tensor([0.3, 1.6, 9.0, -9.0])
    scale = torch.tensor(1.0, requires_grad=True)
    fake_quantize(x, scale, torch.tensor(2.0), 2, 1.0).sum().backward()
    assert float(scale.grad) == pytest.approx((0 - 0.3) + (1 - 0) + 1 - 2, abs=1e-6)


def test_the_default_weight_of_a_step_gradient() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    grads = []
    for weight in (None, 1.0):
        scale = torch.full((4, 1), 0.2, requires_grad=True)
        fake_quantize(x, scale, torch.full((4, 1), 4.0), 3, weight).sum().backward()
        grads.append(scale.grad)
    torch.testing.assert_close(grads[0], grads[1] / (8 * 7) ** 0.5)
