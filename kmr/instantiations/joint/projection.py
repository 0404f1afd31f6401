"""Projection of widths and channels on a limit on bit operations.

Pure arithmetic on vectors of L layers with multiply-accumulates and U units of channels that are removed together.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BISECTIONS = 80


@dataclass(frozen=True, eq=False)
class Bill:
    """The bit operations of a model as a function of its widths and removed units.

    A layer takes MACs · width · activation bits. Its MACs are proportional to the shares of its remaining inputs and
    outputs.

    Args:
        macs: multiply-accumulates of each layer with all units, (L,).
        activations: bits of each layer's input, (L,).
        reads: share of each layer's inputs that come from each unit, (L, U).
        makes: share of each layer's outputs that belong to each unit, (L, U).
        rest: bit operations outside these layers.
    """

    macs: Tensor
    activations: Tensor
    reads: Tensor
    makes: Tensor
    rest: float

    def per_bit(self, gone: Tensor) -> Tensor:
        """Return the bit operations per bit of each layer's width, (L,), without the removed units, (U,)."""
        off = gone.double()
        return self.macs * self.activations * (1 - self.reads @ off) * (1 - self.makes @ off)

    def __call__(self, gone: Tensor, widths: Tensor) -> float:
        """Return the bit operations without the removed units, (U,), at these widths, (L,)."""
        return self.rest + float((self.per_bit(gone) * widths).sum())

    def saved(self, gone: Tensor, widths: Tensor) -> Tensor:
        """Return the bit operations that removing each unit saves, to first order, (U,)."""
        off = gone.double()
        layers = self.macs * self.activations * widths
        inputs, outputs = 1 - self.reads @ off, 1 - self.makes @ off
        return self.reads.T @ (layers * outputs) + self.makes.T @ (layers * inputs)


@dataclass(frozen=True, eq=False)
class Losses:
    """Estimated losses of the model, on one scale.

    Args:
        units: the loss from removing each unit, (U,), ≥ 0.
        noise: the loss from rounding each layer at its present width, (L,), ≥ 0; one bit less multiplies it by 4.
    """

    units: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class ProjectedPoint:
    """The removed units, boolean (U,), and the layers' widths, (L,)."""

    gone: Tensor
    widths: Tensor


def project(
    bill: Bill, point: ProjectedPoint, losses: Losses, lowest: Tensor, sets: Tensor, stay: Tensor, limit: float
) -> ProjectedPoint:
    """Lower widths and remove units with the least loss per saved bit operation until the limit is met.

    All decisions share one price λ of a bit operation. A unit is removed if its loss is below λ times its savings. A
    width b with noise N falls to the b′ at which another bit would lose more than it saves,
    2·ln 2 · N · 4^(b − b′) = λ · (bit operations of a bit): reverse water-filling. λ is the least price that meets the
    limit. Removed units and bits never return.

    Args:
        bill: the cost.
        point: the starting point.
        losses: the losses of units and widths.
        lowest: the least width of each layer, (L,); a layer at its least width does not change.
        sets: the group number of each unit, (U,).
        stay: number of units in each group that stay at any price.
        limit: the limit in bit operations.

    Returns:
        The projected point; it exceeds the limit only if no price meets it.
    """
    free = _may_go(point.gone, losses.units, sets, stay)
    saved = bill.saved(point.gone, point.widths)
    unit_price = torch.where(free, losses.units / saved.clamp(min=1e-300), math.inf)
    per_bit = bill.per_bit(point.gone)
    # The price at which a layer's last bit saves exactly what it loses.
    bit_price = 2 * math.log(2) * losses.noise / per_bit.clamp(min=1e-300)

    def at(price: float) -> ProjectedPoint:
        gone = point.gone | (unit_price < price)
        wanted = point.widths + 0.5 * torch.log2(bit_price.clamp(min=1e-300) / price)
        return ProjectedPoint(gone, torch.minimum(point.widths, torch.maximum(wanted, lowest)))

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


def whole_widths(bill: Bill, point: ProjectedPoint, losses: Losses, highest: Tensor, limit: float) -> Tensor:
    """Return whole widths within the limit, (L,): round all down, then return bits where they gain most.

    Another bit removes three quarters of a layer's noise; the layer with the largest gain per bit operation is first.

    Args:
        bill: the cost.
        point: a point within the limit.
        losses: the losses, with the noise at the widths of the point.
        highest: the maximum bits of each layer, (L,).
        limit: the limit in bit operations.
    """
    # The tolerance recovers whole numbers from their single-precision values.
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
    """Return a mask of the removable units, (U,): in each group all except the `stay` with the largest losses."""
    free = torch.zeros_like(gone)
    for number in range(len(stay)):
        members = torch.nonzero((sets == number) & ~gone).reshape(-1)
        count = max(0, len(members) - int(stay[number]))
        free[members[torch.sort(losses[members], stable=True).indices[:count]]] = True
    return free
