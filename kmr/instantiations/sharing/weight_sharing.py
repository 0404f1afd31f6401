"""Weights shared across layers (Algorithm 9): layers of one shape become the same layer, stored once."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, cast, final

from torch import nn

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.factored import Factorable, attention_outputs, is_factorable
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.sharing.fit import Merge, Scale, merges
from kmr.instantiations.sharing.tie import kind_of, tie
from kmr.representation.weights import read_weight

_Ranked: TypeAlias = tuple[float, int, Merge, list[Factorable]]
"""What a merger loses for each weight it saves, the number of the kind of layer, the merger, the layers."""


@final
@dataclass(frozen=True, kw_only=True)
class WeightSharing(LayerRule):
    """Let layers that compute alike on one shape of weight be one layer, which the model then uses several times.

    The value is the share of the mergers that are done, of all that lead to one weight for each kind of layer: those
    first that change the weights least, relative to their norms, for each weight saved. Biases and scales stay each
    layer's own. Further rules find one layer, used in several places; the same grid then holds everywhere. Only
    layers on grids of the same bits merge; a mask becomes what any of the layers keeps, and a fixed grid of inputs
    reaches as far as any of theirs.

    Args:
        scale: what a layer multiplies the shared weight by: one number for each output `channel`, one for the whole
            `layer` (stored as one for each channel), or `none`.
    """

    name: str = "share"
    scale: Scale = "channel"
    setting: ClassVar[str] = "ratio"
    domain: ClassVar[Domain] = FloatRange(0.0, 1.0, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in ("none", "layer", "channel"):
            raise KMRError(f"the scale of {self.name} must be none, layer or channel, not {self.scale!r}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"masks", "activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.weights_of(model, knob)
        read = attention_outputs(model)
        left = {
            path
            for path, layer in layers.items()
            if not is_factorable(layer) or getattr(layer, "output_quantizer", None) is not None or path in read
        }
        self.report(left, "left as they are: groups, outputs on a grid, code of their own, or read by attention")
        kinds: dict[Hashable, list[Factorable]] = {}
        for path, layer in layers.items():
            if path not in left:
                kinds.setdefault(kind_of(layer), []).append(cast(Factorable, layer))
        ranked = [entry for number, alike in enumerate(kinds.values()) for entry in self._ranked(number, alike)]
        if not ranked:
            raise NotApplicable(f"{knob.name}={value}: no two layers are of the same kind and shape")
        count = max(1, math.floor(float(value) * len(ranked) + 0.5))
        for alike, sets in _chosen(sorted(ranked, key=lambda entry: entry[:2])[:count]):
            for places in sets:
                model = tie(model, [alike[place] for place in sorted(places)], self.scale)
        leave_fast_path(model)
        return model

    def _ranked(self, number: int, alike: list[Factorable]) -> list[_Ranked]:
        """Return the mergers of layers of one kind, each with what it loses for each weight it saves."""
        saved = alike[0].weight.numel() - (0 if self.scale == "none" else 2 * len(alike[0].weight))
        if saved <= 0:
            return []
        ranked: list[_Ranked] = []
        for merge in merges([read_weight(layer).weight for layer in alike], self.scale):
            # A merger comes after those that it builds on, even if they lost more.
            worst = max(merge.loss / saved, ranked[-1][0] if ranked else 0.0)
            ranked.append((worst, number, merge, alike))
        return ranked


def _chosen(ranked: list[_Ranked]) -> list[tuple[list[Factorable], list[set[int]]]]:
    """Return, for each kind of layer, its layers and the sets of them that the mergers make."""
    sets: dict[int, list[set[int]]] = {}
    kinds: dict[int, list[Factorable]] = {}
    for _, number, merge, alike in ranked:
        kinds[number] = alike
        new = {*merge.one, *merge.other}
        sets[number] = [*(old for old in sets.get(number, []) if not old & new), new]
    return [(kinds[number], sets[number]) for number in kinds]
