"""What widths and channels cost in bit operations, and how they give way to a budget.

Pure arithmetic on vectors: L layers with multiply-accumulates, U units of channels that go together.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BISECTIONS = 80


@dataclass(frozen=True, eq=False)
class Bill:
    """The bit operations of a model as a function of its widths and of the units that are gone.

    A layer takes MACs · width · activation bits, and of the MACs the share of its inputs that are left times the share
    of its outputs.

    Args:
        macs: of each layer with all units, (L,).
        activations: bits of each layer's input, (L,).
        reads: inputs of each layer that come from each unit, as a share of all its inputs, (L, U).
        makes: outputs of each layer that belong to each unit, as a share of all its outputs, (L, U).
        rest: bit operations outside these layers.
    """

    macs: Tensor
    activations: Tensor
    reads: Tensor
    makes: Tensor
    rest: float

    def per_bit(self, gone: Tensor) -> Tensor:
        """Return what a bit of each layer's width takes, (L,), without the units that are gone, (U,)."""
        off = gone.double()
        return self.macs * self.activations * (1 - self.reads @ off) * (1 - self.makes @ off)

    def __call__(self, gone: Tensor, widths: Tensor) -> float:
        """Return the bit operations without the units that are gone, (U,), at these widths, (L,)."""
        return self.rest + float((self.per_bit(gone) * widths).sum())

    def saved(self, gone: Tensor, widths: Tensor) -> Tensor:
        """Return what each unit takes beside those that are left, to first order, (U,)."""
        off = gone.double()
        layers = self.macs * self.activations * widths
        inputs, outputs = 1 - self.reads @ off, 1 - self.makes @ off
        return self.reads.T @ (layers * outputs) + self.makes.T @ (layers * inputs)


@dataclass(frozen=True, eq=False)
class Losses:
    """What the model is taken to lose, all on one scale.

    Args:
        units: by each unit that goes, (U,), ≥ 0.
        noise: by the rounding of each layer at the width it has, (L,), ≥ 0; 4 times as much with each bit less.
    """

    units: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class Point:
    """Which units are gone, (U,) of booleans, and the widths of the layers, (L,)."""

    gone: Tensor
    widths: Tensor


def project(
    bill: Bill, point: Point, losses: Losses, lowest: Tensor, sets: Tensor, stay: Tensor, limit: float
) -> Point:
    """Lower widths and take out units, where that loses least for the bit operations it saves, until the limit is met.

    There is one price λ of a bit operation. A unit goes where it loses less than λ times what it saves. A width b with
    noise N falls to where another bit would lose more than it saves, 2·ln 2 · N · 4^(b − b′) = λ · (bit operations of a
    bit): reverse water-filling. λ is the least price that meets the limit. Nothing comes back.

    Args:
        bill: the cost.
        point: where it starts.
        losses: of units and widths.
        lowest: the least width of each layer, (L,); what has it already does not move.
        sets: for each unit the number of the group it is of, (U,).
        stay: units of each group that stay whatever the price.
        limit: in bit operations.

    Returns:
        The point, which costs more than the limit only where no price meets it.
    """
    free = _may_go(point.gone, losses.units, sets, stay)
    saved = bill.saved(point.gone, point.widths)
    unit_price = torch.where(free, losses.units / saved.clamp(min=1e-300), math.inf)
    per_bit = bill.per_bit(point.gone)
    # At this price a layer's width is just worth keeping.
    bit_price = 2 * math.log(2) * losses.noise / per_bit.clamp(min=1e-300)

    def at(price: float) -> Point:
        gone = point.gone | (unit_price < price)
        wanted = point.widths + 0.5 * torch.log2(bit_price.clamp(min=1e-300) / price)
        return Point(gone, torch.minimum(point.widths, torch.maximum(wanted, lowest)))

    if bill(point.gone, point.widths) <= limit:
        return point
    seen = torch.cat([unit_price[free], bit_price * 4.0 ** (point.widths - lowest)])
    high = 4 * max([1e-250, *seen[torch.isfinite(seen)].tolist()])
    low = high * 1e-40
    most = at(high)
    if bill(most.gone, most.widths) > limit:
        return most
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low) * math.sqrt(high)
        tried = at(middle)
        if bill(tried.gone, tried.widths) <= limit:
            high = middle
        else:
            low = middle
    return at(high)


def whole_widths(bill: Bill, point: Point, losses: Losses, highest: Tensor, limit: float) -> Tensor:
    """Return whole widths within the limit, (L,): all rounded down, then bits given back where they gain most.

    A bit more takes three quarters off a layer's noise; the layer that gains most for its bit operations is first.

    Args:
        bill: the cost.
        point: within the limit.
        losses: the noise is that at the widths of the point.
        highest: the most bits of each layer, (L,).
        limit: in bit operations.
    """
    # What single precision leaves of a whole number is that number.
    widths = torch.floor(point.widths + 1e-4)
    if bill(point.gone, widths) > limit:
        widths = torch.floor(point.widths)
    per_bit = bill.per_bit(point.gone)
    left = limit - bill(point.gone, widths)
    noise = losses.noise * 4.0 ** (point.widths - widths)
    while True:
        gains = 0.75 * noise / per_bit.clamp(min=1e-300)
        gains[(widths >= highest) | (per_bit > left)] = -1.0
        best = int(gains.argmax())
        if float(gains[best]) < 0:
            return widths
        widths[best] += 1
        noise[best] /= 4
        left -= float(per_bit[best])


def _may_go(gone: Tensor, losses: Tensor, sets: Tensor, stay: Tensor) -> Tensor:
    """Tell which units may go, (U,): in each group all but the `stay` that lose most."""
    free = torch.zeros_like(gone)
    for number in range(len(stay)):
        members = torch.nonzero((sets == number) & ~gone).reshape(-1)
        count = max(0, len(members) - int(stay[number]))
        free[members[torch.sort(losses[members], stable=True).indices[:count]]] = True
    return free
