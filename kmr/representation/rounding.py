"""Rounding to a uniform grid: differentiable functions of tensors that quantize weights and activations.

A grid of b bits has the codes 0 … 2^b − 1 and represents the values `scale · (code − zero_point)`. Signed integers are
shifted codes: an int8 weight with zero point 0 is an 8-bit code with zero point 128. The arithmetic follows ONNX's
QuantizeLinear and DequantizeLinear: divide by the scale, round half to even, add the zero point, clamp.

A zero point that lies half-way between two codes makes a grid without 0 whose levels are symmetric around it (±½, ±1½,
… steps); at 1 bit these are the two values ±scale/2.

The codes of 16-bit floats are computed in single precision, since bfloat16 counts to 256 only.
"""

from typing import Any

import torch
from torch import Tensor


def to_codes(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Return the codes of values, as whole numbers of their dtype (`wide`), clamped to [0, 2^bits − 1].

    Args:
        x: values.
        scale: positive; broadcasts against x.
        zero_point: whole or half numbers, the code of 0; broadcasts against x.
        bits: bits of a code, 1 to 16.
    """
    return _unclamped(x, scale, zero_point).clamp_(0, 2**bits - 1)


def from_codes(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the values that the codes represent, in the dtype of the scale."""
    return (wide(scale) * (wide(codes) - wide(zero_point))).to(scale.dtype)


def wide(x: Tensor) -> Tensor:
    """Return 16-bit floats in single precision, which they fit exactly; other tensors as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, step_gradient: float | None = None
) -> Tensor:
    """Round values to a grid; the gradient passes straight through where the code is not clamped and is 0 elsewhere.

    If scale or zero point require gradients, they receive those of learned step size quantization (Esser et al. 2020;
    with an offset, Bhalgat et al. 2020).

    Args:
        x: values.
        scale: positive; broadcasts against x.
        zero_point: as for `to_codes`.
        bits: bits of a code.
        step_gradient: a factor on the gradients of scale and zero point; by default 1/√(n·(2^b − 1)) for n values that
            share a scale.
    """
    if step_gradient is None:
        step_gradient = (x.numel() / max(1, scale.numel()) * (2**bits - 1)) ** -0.5
    rounded: Tensor = _FakeQuantize.apply(x, scale, zero_point, bits, step_gradient)  # type: ignore[no-untyped-call]
    return rounded


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, step_gradient: float) -> Tensor:
        unclamped = _unclamped(x, scale, zero_point)
        codes = unclamped.clamp(0, 2**bits - 1)
        ctx.step_gradient = step_gradient
        learned = any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(unclamped == codes, *((x, scale, zero_point, codes) if learned else ()))
        return from_codes(codes, scale, zero_point).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inside, *learned = ctx.saved_tensors
        of_x = torch.where(inside, gradient, torch.zeros((), dtype=gradient.dtype, device=gradient.device))
        if not learned:
            return of_x, None, None, None, None
        x, scale, zero_point, codes = learned
        steps = codes - zero_point
        of_scale = (gradient * torch.where(inside, steps - x / scale, steps)).sum_to_size(scale.shape)
        of_zero = (gradient * torch.where(inside, torch.zeros_like(steps), -scale)).sum_to_size(zero_point.shape)
        return of_x, of_scale * ctx.step_gradient, of_zero * ctx.step_gradient, None, None


def _unclamped(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    zero_point = wide(zero_point)
    whole = zero_point.floor()
    return torch.round(wide(x) / wide(scale) + (zero_point - whole)) + whole


def nearest_level(x: Tensor, levels: Tensor) -> Tensor:
    """Return the index of the nearest level for each value; half-way between two levels, that of the lower one.

    Levels may be in any order, since training can change it.
    """
    order = torch.argsort(levels)
    ascending = levels[order]
    return order[torch.bucketize(x.contiguous(), (ascending[1:] + ascending[:-1]) / 2)]


def look_up(x: Tensor, levels: Tensor) -> Tensor:
    """Replace values by their nearest levels; gradients pass straight through and sum up at each level (`Codebook`)."""
    found: Tensor = _LookUp.apply(x, levels)  # type: ignore[no-untyped-call]
    return found


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Tensor) -> Tensor:
        places = nearest_level(x, levels)
        ctx.save_for_backward(places)
        ctx.count = len(levels)
        return levels[places]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (places,) = ctx.saved_tensors
        total = torch.zeros(ctx.count, dtype=gradient.dtype, device=gradient.device)
        total.index_add_(0, places.reshape(-1), gradient.reshape(-1))
        return gradient, total * (ctx.count / max(1, gradient.numel())) ** 0.5
