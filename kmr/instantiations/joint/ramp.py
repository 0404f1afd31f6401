"""Ramp of masks and grids that tighten during training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.instantiations.pruning.budgets import magnitude_keep
from kmr.instantiations.quantization import channel_dim, fit_grid
from kmr.representation.weights import Grid, Mask, WeightLayer, WeightState, read_weight, write_weight


@dataclass(frozen=True)
class _RampedLayer:
    """A layer on the ramp: its latent weight, its mask, its grid and the grid's initial bits."""

    layer: WeightLayer
    latent: nn.Parameter
    mask: Mask | None
    grid: Grid | None
    start: int

    def scores(self) -> Tensor:
        assert self.mask is not None
        return torch.where(self.mask.keep, self.latent.detach().double().abs(), -1)


class Ramp:
    """Masks and grids over layers that tighten in place, so that an optimizer keeps its state of the latent weights.

    At share t of the ramp, the fraction s·(1 − (1 − t)³) of weights with the least magnitude over all layers is masked
    (Zhu & Gupta 2018). Grids have round(b₀ + (b − b₀)·t) bits, fitted again to the remaining weights. Masked weights
    stay masked. A layer whose grid has at most `bits` keeps it; one with fewer than `start_bits` starts there.

    Args:
        layers: the layers by path; changed in place.
        sparsity: s, the final share of weights that are 0; 0 for no masks.
        bits: b, the final bits; 32 for no grids.
        start_bits: b₀, the initial bits, or b if that is larger.
        learned: train the scales with the weights.
    """

    def __init__(
        self, layers: Mapping[str, WeightLayer], sparsity: float, bits: int, start_bits: int = 8, learned: bool = False
    ) -> None:
        self._sparsity, self._bits = sparsity, bits
        self._held = [self._put(layer, max(start_bits, bits), learned) for layer in layers.values()]
        self.share = 0.0
        """The share t of the ramp that is done."""

    def _put(self, layer: WeightLayer, start: int, learned: bool) -> _RampedLayer:
        state = read_weight(layer)
        moving = None
        if self._bits < 32 and state.bits > self._bits:
            start = start if state.grid is None else min(start, state.grid.bits)
            moving = fit_grid(state.weight, start, dim=channel_dim(layer), learned=learned)
        keep = state.keep
        if keep is None and self._sparsity > 0:
            keep = torch.ones_like(state.weight, dtype=torch.bool)
        write_weight(layer, WeightState(state.weight, moving or state.grid, keep))
        # `write_weight` rounds the latent weights and masks zeros; here that must happen only at the end.
        if not parametrize.is_parametrized(layer, "weight"):
            return _RampedLayer(layer, cast(nn.Parameter, layer.weight), None, None, start)
        parts: Any = layer.parametrizations.weight  # type: ignore[union-attr]
        latent = cast(nn.Parameter, parts.original)
        latent.data.copy_(state.weight)
        mask = next((part for part in parts if isinstance(part, Mask)), None)
        if mask is not None and keep is not None:
            mask.keep.copy_(keep)
        return _RampedLayer(layer, latent, mask, moving, start)

    @torch.no_grad()
    def to(self, share: float) -> None:
        """Tighten to a share of the ramp, 0 to 1; a smaller share than before has no effect."""
        if share <= self.share:
            return
        self.share = min(1.0, share)
        if self._sparsity > 0:
            now = self._sparsity * (1 - (1 - self.share) ** 3)
            keeps = magnitude_keep([held.scores() for held in self._held], now)
            for held, keep in zip(self._held, keeps, strict=True):
                assert held.mask is not None
                held.mask.keep &= keep
        for held in self._held:
            if held.grid is not None:
                bits = round(held.start + (self._bits - held.start) * self.share)
                left = held.latent if held.mask is None else held.mask(held.latent)
                fitted = fit_grid(left, bits, dim=channel_dim(held.layer))
                held.grid.bits = bits
                held.grid.scale.copy_(fitted.scale)
                held.grid.zero_point.copy_(fitted.zero_point)
