"""The scheduled policy: moves in a fixed order (paper, section 3.4)."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import final

from torch import nn

from kmr.core import Budget, Domain, Instantiation, Move, Policy, Readings
from kmr.policies.ladder import ladders
from kmr.policies.order import knobs_in_order


@final
class Scheduled(Policy):
    """Policy that climbs the knobs' ladders in a fixed order, independent of the readings.

    Args:
        instantiation: the instantiation whose knobs are turned.
        budget: the run's budget (the order does not depend on it).
        space: narrower domains by knob name; a knob missing from it is not turned.
        levels: rungs of each ladder.
        order: order of the knobs, by their names or their rules' names (`kmr.policies.legal_orders` lists the legal
            orders); by default the order of the rules.
        interleaved: whether to climb all ladders together, one rung each, or each knob to its end before the next.
    """

    def __init__(
        self,
        instantiation: Instantiation,
        budget: Budget,
        space: Mapping[str, Domain] | None = None,
        *,
        levels: int = 3,
        order: str | Sequence[str] | None = None,
        interleaved: bool = True,
    ) -> None:
        climbs = ladders(instantiation, space, levels)
        names = climbs if order is None else knobs_in_order(instantiation, order)
        chosen = [climbs[name] for name in names if name in climbs]
        if interleaved:
            self._moves = [move for level in zip_longest(*chosen) for move in level if move is not None]
        else:
            self._moves = [move for climb in chosen for move in climb]
        self._next = 0

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        if self._next == len(self._moves):
            return None
        self._next += 1
        return self._moves[self._next - 1]
