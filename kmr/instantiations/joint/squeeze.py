"""Squeeze of a model in training: its channels and widths shrink to a falling limit on bit operations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.data import Inputs
from kmr.instantiations.joint.projection import Bill, Losses, ProjectedPoint, project, whole_widths
from kmr.instantiations.joint.units import UnitMask, Units, latent_weight, put_masks
from kmr.instantiations.joint.widths import LearnedWidth
from kmr.instantiations.quantization import channel_dim
from kmr.meters.bops import FLOAT_BITS, layer_bits
from kmr.meters.macs import count_macs
from kmr.representation.weights import Mask, WeightLayer, WeightState, read_weight, strip, write_weight

_MEMORY = 0.9
"""The decay of the running means per step."""


@dataclass(frozen=True, eq=False)
class _Held:
    """A layer with a learned width: its index in the bill, and its quantizer."""

    place: int
    quantizer: LearnedWidth


class Squeeze:
    """Learned widths and unit masks on a model, and their projection on a limit.

    The training's gradients estimate all losses on one scale (the empirical Fisher information). A unit's loss is
    (Σ g·w)² over the weights that read it, the squared first-order change without it (Molchanov et al. 2019). A layer's
    rounding loss is Σ g²·d²/12, for uniform noise of step d. Both are running means over steps. Before the first
    gradient, g is 1.

    Args:
        model: the model; changed in place.
        layers: the layers whose widths are learned, by path; a layer's grid sets the maximum of its width.
        units: the removable units.
        inputs: a batch.
        bits: the lower and upper limit of a width.
        stay: the least share of each group's units that stays; at least one unit stays.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, WeightLayer],
        units: Units,
        inputs: Inputs,
        bits: tuple[int, int],
        stay: float,
    ) -> None:
        self._model, self._units = model, units
        self._stay = torch.clamp(torch.ceil(units.counts * stay - 1e-9), min=1)
        self._bill, paths, widths = _bill(model, inputs, units)
        self._held = {
            path: _Held(place, _put(layers[path], bits)) for place, path in enumerate(paths) if path in layers
        }
        for held in self._held.values():
            widths[held.place] = held.quantizer.highest
        gone = torch.zeros(len(units.channels), dtype=torch.bool)
        self._point = ProjectedPoint(gone, widths)
        self._lowest = widths.clone()
        self._highest = widths.clone()
        for held in self._held.values():
            self._lowest[held.place] = held.quantizer.lowest
        self._masks = put_masks(model, units)
        self._latents = {
            path: latent_weight(model.get_submodule(path)) for path in dict.fromkeys((*self._masks, *self._held))
        }
        self._units_lost = torch.zeros(len(units.channels), dtype=torch.float64)
        self._gradients = torch.zeros(len(paths), dtype=torch.float64)
        self._seen = 0
        self.share = 0.0
        """The share of the way to the limit that is done."""
        self.start = self._bill(gone, widths)
        """The initial bit operations."""

    @property
    def least(self) -> float:
        """The bit operations at the least widths without all removable units."""
        most = [
            torch.nonzero(self._units.sets == place).reshape(-1)[int(stay) :] for place, stay in enumerate(self._stay)
        ]
        gone = torch.zeros_like(self._point.gone)
        if most:
            gone[torch.cat(most)] = True
        return self._bill(gone, self._lowest)

    @property
    def widths(self) -> dict[str, float]:
        """The learned widths, by path."""
        return {path: held.quantizer.width for path, held in self._held.items()}

    @torch.no_grad()
    def see(self) -> None:
        """Update the running means with a step's gradients, and clamp the widths to their bounds."""
        units, rounding = self._measure(ones=False)
        keep = _MEMORY if self._seen else 0.0
        self._units_lost = keep * self._units_lost + (1 - keep) * units
        self._gradients = keep * self._gradients + (1 - keep) * rounding
        self._seen += 1
        for held in self._held.values():
            held.quantizer.hold()

    @torch.no_grad()
    def to(self, share: float, limit: float) -> None:
        """Tighten to a share of the way to the limit, along B₀·(B/B₀)^t; at its end, make the widths whole.

        Args:
            share: t, 0 to 1; a smaller share than before has no effect.
            limit: B, the limit in bit operations.
        """
        if share <= self.share:
            return
        self.share = min(1.0, share)
        if not self._seen:
            self._units_lost, self._gradients = self._measure(ones=True)
        now = ProjectedPoint(self._point.gone, self._widths())
        losses = Losses(self._units_lost, self._noise())
        budget = self.start * min(1.0, limit / self.start) ** self.share
        found = project(self._bill, now, losses, self._lowest, self._units.sets, self._stay, budget)
        there = torch.cat([~found.gone, torch.ones(1, dtype=torch.bool)])
        for mask in self._masks.values():
            mask.there.copy_(there)
        self._point = found
        if self.share == 1.0:
            noise = losses.noise * 4.0 ** (now.widths - found.widths)
            whole = whole_widths(self._bill, found, Losses(losses.units, noise), self._highest, limit)
            self._point = ProjectedPoint(found.gone, whole)
        for path, held in self._held.items():
            width = float(self._point.widths[held.place])
            if self.share == 1.0:
                held.quantizer.fix(int(width), self._masked(path))
            elif width < float(now.widths[held.place]):
                held.quantizer.narrow(width, self._masked(path))

    def finish(self, learned: bool) -> dict[str, Tensor]:
        """Convert the quantizers to grids; return the channels to remove, by the root of their group.

        Args:
            learned: whether later trainings train the scales.
        """
        for path in self._latents:
            layer = self._model.get_submodule(path)
            state = read_weight(layer)
            if path in self._held:
                state = WeightState(state.weight, self._held[path].quantizer.grid(learned), state.keep)
            write_weight(layer, state)
        return self._units.gone_channels(self._point.gone)

    def _widths(self) -> Tensor:
        widths = self._point.widths.clone()
        for held in self._held.values():
            widths[held.place] = held.quantizer.width
        return widths

    def _noise(self) -> Tensor:
        noise = self._gradients.clone()
        for held in self._held.values():
            noise[held.place] *= float(held.quantizer.step.detach()) ** 2 / 12
        return noise

    def _measure(self, ones: bool) -> tuple[Tensor, Tensor]:
        """Return the units' losses, (U,), and the layers' Σ g² with weights scaled by channel factors, (L,)."""
        units = torch.zeros(len(self._units.channels) + 1, dtype=torch.float64)
        rounding = torch.zeros(len(self._bill.macs), dtype=torch.float64)
        for path, latent in self._latents.items():
            gradient = torch.zeros_like(latent) if latent.grad is None else latent.grad
            if path in self._masks:
                weight = cast(Tensor, self._model.get_submodule(path).weight).detach().double()
                change = weight.square() if ones else weight * gradient
                total = torch.zeros(len(units), dtype=torch.float64, device=change.device)
                units += total.index_add_(0, self._masks[path].owners.reshape(-1), change.reshape(-1)).cpu()
            if path in self._held:
                held = self._held[path]
                scaled = held.quantizer.factor.detach() * (torch.ones_like(latent) if ones else gradient)
                rounding[held.place] = float(scaled.double().square().sum())
        return (units if ones else units.square())[:-1], rounding

    def _masked(self, path: str) -> Tensor:
        """Return a layer's masked weight before rounding."""
        parts = cast(nn.ModuleList, cast(nn.ModuleDict, self._model.get_submodule(path).parametrizations)["weight"])
        weight: Tensor = self._latents[path].detach()
        for part in parts:
            if isinstance(part, Mask | UnitMask):
                weight = part(weight)
        return weight


def _put(layer: WeightLayer, bits: tuple[int, int]) -> LearnedWidth:
    state = strip(layer)
    highest = bits[1] if state.grid is None else min(bits[1], state.grid.bits)
    quantizer = LearnedWidth(state.weight, channel_dim(layer), highest, bits[0], highest)
    quantizer.narrow(highest, state.weight)
    quantizer.requires_grad_(cast(nn.Parameter, layer.weight).requires_grad)
    parametrize.register_parametrization(layer, "weight", quantizer)
    if state.keep is not None:
        parametrize.register_parametrization(layer, "weight", Mask(state.keep))
    return quantizer


def _bill(model: nn.Module, inputs: Inputs, units: Units) -> tuple[Bill, list[str], Tensor]:
    """Return the bill of the model's bit operations, the paths of the layers, and their widths."""
    total, layers = count_macs(model, inputs)
    bits = layer_bits(model)
    paths = list(layers)
    macs = torch.tensor([layers[path].macs for path in paths], dtype=torch.float64)
    both = torch.tensor([bits.get(path, (FLOAT_BITS, FLOAT_BITS)) for path in paths], dtype=torch.float64)
    none = torch.zeros(len(units.channels), dtype=torch.float64)
    reads, makes = (torch.stack([shares.get(path, none) for path in paths]) for shares in (units.reads, units.makes))
    rest = float(total - int(macs.sum())) * FLOAT_BITS**2
    return Bill(macs, both[:, 1], reads, makes, rest), paths, both[:, 0].clone()
