"""Learned bit widths: training moves a weight's step and range, and the width follows from them.

A quantizer with step d and range q has the values 0, ±d, … up to ±q and therefore b = log₂(q/d + 1) + 1 bits (Uhlich et
al. 2020, "Mixed precision DNNs: all you need is a good parametrization"; GETA, Qu et al. 2025, without its exponent).
The width is a real number in training; at the end it becomes a whole number, and the quantizer a `Grid`.
"""

import torch
from torch import Tensor, nn

from kmr.instantiations.quantization import fit_grid
from kmr.instantiations.quantization.quantizers import SHRINKS
from kmr.representation.rounding import fake_quantize
from kmr.representation.weights import Grid


def width_of(step: Tensor, bound: Tensor) -> Tensor:
    """Return the bits log₂(q/d + 1) + 1 of a quantizer with step d and range q, both positive; differentiable."""
    return torch.log2(bound / step + 1) + 1


def levels_of(width: float) -> float:
    """Return q/d = 2^(b − 1) − 1, the number of steps on either side of 0 at b bits."""
    return float(2.0 ** (width - 1) - 1)


def round_within(x: Tensor, step: Tensor, bound: Tensor) -> Tensor:
    """Round to multiples of the step within the range, with straight-through gradients.

    Let v = x/d and n = q/d. Inside the range, x gets the gradient 1 and d that of LSQ, round(v) − v. Outside, q gets
    sign(x) and d gets sign(x)·(round(n) − n).

    Args:
        x: values.
        step: d, positive; broadcasts against x.
        bound: q, positive; broadcasts against x.
    """
    levels = bound / step
    inside = (x / step).clamp(-levels, levels)
    return step * (inside + (inside.round() - inside).detach())


class LearnedWidth(nn.Module):
    """A quantizer of a weight with learned step and range, and a learned factor on both for each output channel.

    After `fix` makes the width a whole number, the quantizer rounds like the `Grid` it becomes: with 2^b levels over
    each channel's range (`affine_grid`) instead of levels symmetric around 0. Its scales continue to train.

    Args:
        weight: the weight to quantize.
        dim: the dimension of the output channels; None for one step over the whole weight.
        width: initial bits.
        lowest: minimum bits.
        highest: maximum bits.
    """

    zero_point: Tensor

    def __init__(self, weight: Tensor, dim: int | None, width: float, lowest: int, highest: int) -> None:
        super().__init__()
        weight = weight.detach()
        self.dim, self.lowest, self.highest = dim, lowest, highest
        self.bits: int | None = None
        """The whole number of bits after `fix`, else None."""
        largest = weight.abs().amax([d for d in range(weight.dim()) if dim is None or d != dim], keepdim=True)
        bound = largest.max() if float(largest.max()) > 0 else torch.ones_like(largest.max())
        self.factor = nn.Parameter(torch.where(largest > 0, largest / bound, 1.0))
        self.bound = nn.Parameter(bound.clone())
        self.step = nn.Parameter(bound / levels_of(width))
        self.register_buffer("zero_point", torch.zeros_like(largest))

    @property
    def width(self) -> float:
        """The present width in bits."""
        return float(self.bits if self.bits is not None else width_of(self.step.detach(), self.bound.detach()))

    def forward(self, weight: Tensor) -> Tensor:
        """Round the weight to the present levels."""
        levels = self.bound.detach() / self.step.detach()
        # The gradient scale of learned step sizes (Esser et al. 2020, section 2.2), by the weights per parameter.
        pace = (weight.numel() * levels).clamp(min=1).rsqrt()
        factor = _paced(self._positive(self.factor), pace * self.factor.numel() ** 0.5)
        step = _paced(self._positive(self.step), pace)
        if self.bits is not None:
            return fake_quantize(weight, step * factor, self.zero_point, self.bits, 1.0)
        return round_within(weight, step * factor, _paced(self._positive(self.bound), pace) * factor)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight

    @torch.no_grad()
    def hold(self) -> None:
        """Project the step so that the width lies between `lowest` and `highest`."""
        if self.bits is None:
            for learned in (self.bound, self.factor, self.step):
                learned.copy_(self._positive(learned))
            levels = (self.bound / self.step).clamp(levels_of(self.lowest), levels_of(self.highest))
            self.step.copy_(self.bound / levels)

    @torch.no_grad()
    def narrow(self, width: float, weight: Tensor) -> None:
        """Lower the width and shrink the range to the share with the least squared error on the weight."""
        levels = levels_of(width)
        factor = self._positive(self.factor)
        values = weight.detach() / factor
        bounds = [self.bound * share for share in SHRINKS[::2]]
        errors = [
            ((values - round_within(values, bound / levels, bound)) * factor).double().square().sum()
            for bound in bounds
        ]
        self.bound.copy_(bounds[int(torch.stack(errors).argmin())])
        self.step.copy_(self.bound / levels)

    @torch.no_grad()
    def fix(self, bits: int, weight: Tensor) -> None:
        """Fix the width at this whole number of bits, with the scales of least squared error on the weight."""
        fitted = fit_grid(weight, bits, dim=self.dim, clip="mse")
        self.step.copy_(fitted.scale.mean())
        self.factor.copy_(fitted.scale / self.step)
        self.zero_point.copy_(fitted.zero_point)
        self.bound.copy_(self.step * levels_of(bits))
        self.bits = bits

    def grid(self, learned: bool) -> Grid:
        """Return the grid that this quantizer has become; call `fix` first.

        Args:
            learned: whether later trainings train the grid's scales.
        """
        assert self.bits is not None
        scale = (self._positive(self.step) * self._positive(self.factor)).detach().clone()
        return Grid(scale, self.zero_point.clone(), self.bits, learned=learned)

    @staticmethod
    def _positive(learned: Tensor) -> Tensor:
        return learned.clamp(min=torch.finfo(learned.dtype).tiny ** 0.5)


def _paced(value: Tensor, pace: Tensor) -> Tensor:
    """Return the value with its gradient multiplied."""
    slow = value * pace
    return value.detach() + (slow - slow.detach())
