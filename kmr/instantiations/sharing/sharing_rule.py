"""The common part of rules that share weights: the scale, the layers they reach, the mergers they choose."""

import math
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from kmr.core import Domain, FloatRange, KMRError, Knob
from kmr.instantiations.factored import Factorable
from kmr.instantiations.matrix_rule import MatrixRule
from kmr.instantiations.sharing.fit import Merge, Scale

SCALES = ("none", "layer", "channel")


@dataclass(frozen=True, kw_only=True)
class SharingRule(MatrixRule, ABC):
    """A rule whose value is a share of the mergers that lead to one weight for each kind of layer or block.

    Args:
        scale: what each place multiplies the shared weight by: one number for each output `channel`, one for the whole
            `layer` (stored as one for each channel), or `none`.
    """

    scale: Scale = "channel"
    setting: ClassVar[str] = "ratio"
    domain: ClassVar[Domain] = FloatRange(0.0, 1.0, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in SCALES:
            raise KMRError(
                f"the scale of {self.name} must be {', '.join(SCALES[:-1])} or {SCALES[-1]}, not {self.scale!r}"
            )

    def sharable_of(
        self, model: nn.Module, knob: Knob, inside: Callable[[str], bool] = lambda path: True
    ) -> dict[str, Factorable]:
        """Return the layers that one weight can serve, by path; report the others. Arguments as for `matrices_of`."""
        found = self.matrices_of(model, knob, inside)
        rounded = {path for path, layer in found.items() if getattr(layer, "output_quantizer", None) is not None}
        self.report(rounded, "left as they are: their outputs are on a grid of their own")
        return {path: layer for path, layer in found.items() if path not in rounded}


Ranked = tuple[float, tuple[int, ...]]
"""What a merger loses for each weight it saves, and the places that it makes one."""


def rank_mergers(mergers: Sequence[Merge], saved: int) -> list[Ranked]:
    """Rank the mergers of one kind, in an order they can be done in.

    Args:
        mergers: as `merges` returns them.
        saved: the weights that each of them saves.
    """
    ranked: list[Ranked] = []
    for merger in mergers:
        # A merger comes after those that it builds on, even if they lost more.
        loss = max(merger.loss / saved, ranked[-1][0] if ranked else 0.0)
        ranked.append((loss, (*merger.one, *merger.other)))
    return ranked


def choose_mergers(ranked: Sequence[Sequence[Ranked]], share: float) -> list[list[set[int]]]:
    """Return, for each kind, the sets of places that become one by the best of all mergers.

    Args:
        ranked: the mergers of each kind, in an order they can be done in.
        share: of the mergers that are done; at least one is.
    """
    # The sort is stable: of one kind, mergers of equal loss keep the order they can be done in.
    ordered = sorted(
        ((loss, number, places) for number, kind in enumerate(ranked) for loss, places in kind),
        key=lambda merger: merger[:2],
    )
    sets: list[list[set[int]]] = [[] for _ in ranked]
    for _, number, places in ordered[: max(1, math.floor(share * len(ordered) + 0.5))]:
        sets[number] = [*(old for old in sets[number] if not old & set(places)), set(places)]
    return sets
