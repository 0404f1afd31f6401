"""Bit widths that are learned: a weight's step and range are trained, and the width follows from them.

A quantizer of step d and range q has the values 0, ±d, … up to ±q, and so takes b = log₂(q/d + 1) + 1 bits (Uhlich et
al. 2020, "Mixed precision DNNs: all you need is a good parametrization"; GETA, Qu et al. 2025, without its exponent).
While it is trained the width is any number; in the end it is a whole one, and the quantizer a `Grid`.
"""

import torch
from torch import Tensor, nn

from kmr.instantiations.quantization import fit_grid
from kmr.instantiations.quantization.quantizers import SHRINKS
from kmr.representation.rounding import fake_quantize
from kmr.representation.weights import Grid


def width_of(step: Tensor, bound: Tensor) -> Tensor:
    """Return the bits log₂(q/d + 1) + 1 of a quantizer of step d and range q, both positive; differentiable."""
    return torch.log2(bound / step + 1) + 1


def levels_of(width: float) -> float:
    """Return q/d = 2^(b − 1) − 1, the steps on either side of 0 at b bits."""
    return float(2.0 ** (width - 1) - 1)


def round_within(x: Tensor, step: Tensor, bound: Tensor) -> Tensor:
    """Round to multiples of the step no further from 0 than the range; straight-through gradients.

    With v = x/d and n = q/d: inside the range x has the gradient 1 and d that of LSQ, round(v) − v. Outside, q has
    sign(x) and d has sign(x)·(round(n) − n).

    Args:
        x: values.
        step: d, positive; broadcasts against x.
        bound: q, positive; broadcasts against x.
    """
    levels = bound / step
    inside = (x / step).clamp(-levels, levels)
    return step * (inside + (inside.round() - inside).detach())


class LearnedWidth(nn.Module):
    """A weight's quantizer of learned step and range; every output channel has its own factor of both, also learned.

    Once `fix` has made the width a whole number, it rounds as the `Grid` it becomes, which has 2^b levels where each
    channel's weights lie (`affine_grid`) in place of as many on either side of 0; its scales go on learning.

    Args:
        weight: which it is for.
        dim: of its output channels; None for one step over the whole weight.
        width: bits to start with.
        lowest: the least bits it may have.
        highest: the most.
    """

    zero_point: Tensor

    def __init__(self, weight: Tensor, dim: int | None, width: float, lowest: int, highest: int) -> None:
        super().__init__()
        weight = weight.detach()
        self.dim, self.lowest, self.highest = dim, lowest, highest
        self.bits: int | None = None
        """Whole, once it is fixed."""
        largest = weight.abs().amax([d for d in range(weight.dim()) if dim is None or d != dim], keepdim=True)
        bound = largest.max() if float(largest.max()) > 0 else torch.ones_like(largest.max())
        self.factor = nn.Parameter(torch.where(largest > 0, largest / bound, 1.0))
        self.bound = nn.Parameter(bound.clone())
        self.step = nn.Parameter(bound / levels_of(width))
        self.register_buffer("zero_point", torch.zeros_like(largest))

    @property
    def width(self) -> float:
        """Bits, whole or not."""
        return float(self.bits if self.bits is not None else width_of(self.step.detach(), self.bound.detach()))

    def forward(self, weight: Tensor) -> Tensor:
        """Round."""
        levels = self.bound.detach() / self.step.detach()
        # The pace of learned step sizes (Esser et al. 2020, section 2.2), by how many weights share what is learned.
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
        """Project the step so that the width is no less than the lowest and no more than the highest."""
        if self.bits is None:
            for learned in (self.bound, self.factor, self.step):
                learned.copy_(self._positive(learned))
            levels = (self.bound / self.step).clamp(levels_of(self.lowest), levels_of(self.highest))
            self.step.copy_(self.bound / levels)

    @torch.no_grad()
    def narrow(self, width: float, weight: Tensor) -> None:
        """Lower the width, with the range of the least squared error on the weight, among shares of the one it has."""
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
        """Have this whole number of bits from now on, with the scales of least squared error on the weight."""
        fitted = fit_grid(weight, bits, dim=self.dim, clip="mse")
        self.step.copy_(fitted.scale.mean())
        self.factor.copy_(fitted.scale / self.step)
        self.zero_point.copy_(fitted.zero_point)
        self.bound.copy_(self.step * levels_of(bits))
        self.bits = bits

    def grid(self, learned: bool) -> Grid:
        """Return the grid it has become.

        Args:
            learned: the grid's scales are to be trained further.
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
