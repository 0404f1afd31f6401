"""Weight sharing across layers (Algorithm 9): layers of one shape become the same layer, stored once."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import final

from torch import nn

from kmr.core import Knob, NotApplicable, Value
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.factored import Factorable
from kmr.instantiations.sharing.fit import merges
from kmr.instantiations.sharing.sharing_rule import Ranked, SharingRule, choose_mergers, rank_mergers
from kmr.instantiations.sharing.tie import kind_of, tie
from kmr.representation.weights import read_weight


@final
@dataclass(frozen=True, kw_only=True)
class WeightSharing(SharingRule):
    """One layer in place of several of the same kind and shape, which the model then uses several times.

    The value is the share of the mergers that are done, of all that lead to one weight for each kind of layer. Those
    that change the weights least for each weight saved, relative to their norms, come first. Each layer keeps its bias
    and scale. Later rules find one layer, used in several places, with one grid. Only layers on grids of the same bits
    merge; the mask keeps what any of the layers keeps, and a fixed grid of inputs covers all of theirs.
    """

    name: str = "share"

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        kinds: dict[Hashable, list[Factorable]] = {}
        for layer in self.sharable_of(model, knob).values():
            kinds.setdefault(kind_of(layer), []).append(layer)
        ranked = [self._ranked(alike) for alike in kinds.values()]
        if not any(ranked):
            raise NotApplicable(f"{knob.name}={value}: no two layers are of the same kind and shape")
        for alike, sets in zip(kinds.values(), choose_mergers(ranked, float(value)), strict=True):
            for places in sets:
                model = tie(model, [alike[place] for place in sorted(places)], self.scale)
        leave_fast_path(model)
        return model

    def _ranked(self, alike: list[Factorable]) -> list[Ranked]:
        """Rank the mergers of layers of one kind; none where the scales would take more than a weight saves."""
        saved = alike[0].weight.numel() - (0 if self.scale == "none" else 2 * len(alike[0].weight))
        if saved <= 0:
            return []
        return rank_mergers(merges([read_weight(layer).weight for layer in alike], self.scale), saved)
