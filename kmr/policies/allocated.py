"""The allocated policy: what each knob's rungs lose and save is measured once, then the budget is shared out."""

from collections.abc import Mapping, Sequence
from typing import final

from torch import nn

from kmr.core import (
    Budget,
    Domain,
    Instantiation,
    KMRError,
    Move,
    NonFiniteReading,
    NotApplicable,
    Policy,
    Quality,
    Readings,
    apply_move,
)
from kmr.knapsack import allocate
from kmr.policies.ladder import ladders


@final
class Allocated(Policy):
    """Gives each knob the rung with which all of them together lose the least quality at the budget.

    At its first call every rung of every knob is tried on the model alone, without fine-tuning; losses and savings are
    taken to add up, as those of layers' bits nearly do, and the best choice within the budget is solved for
    (`kmr.knapsack`). Where the real cost comes out above it, the budget is tightened by the excess and solved again.
    With one knob for each layer this is mixed precision by sensitivity (Dong et al. 2019) or layer-wise pruning ratios.

    Args:
        instantiation: whose knobs are turned.
        budget: whose cost is shared out.
        space: narrower domains by knob name; a knob it leaves out is not turned.
        levels: rungs of each ladder.
        probe: the quality meters of which the first judges; a loss tells small differences better than an accuracy. By
            default the instantiation's own.
    """

    def __init__(
        self,
        instantiation: Instantiation,
        budget: Budget,
        space: Mapping[str, Domain] | None = None,
        *,
        levels: int = 7,
        probe: Sequence[Quality] | None = None,
    ) -> None:
        self._instantiation = instantiation
        self._budget = budget
        self._cost = next(cost for cost in instantiation.costs if cost.name == budget.cost)
        qualities = tuple(probe) if probe else instantiation.qualities
        if not qualities:
            raise KMRError("the allocated policy needs a quality meter")
        self._quality = qualities[0]
        self._ladders = ladders(instantiation, space, levels)
        self._table: dict[str, list[tuple[Move | None, float, float]]] = {}
        self._start = 0.0
        self._limit = budget.limit
        self._taken: dict[str, int] = {}
        self._planned: list[tuple[str, int]] = []

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        here = costs[self._cost.name].value
        if not self._table:
            self._start = here
            self._measure(model, here)
            self._plan()
        elif not self._planned and here > self._budget.limit:
            # Savings on the same layers multiply instead, so that their sum may say much less than the model costs.
            said = self._start - sum(self._table[knob][place][1] for knob, place in self._taken.items())
            self._limit = min(self._limit, said) - (here - self._budget.limit)
            self._plan()
        if not self._planned:
            return None
        knob, place = self._planned.pop(0)
        self._taken[knob] = place
        return self._table[knob][place][0]

    def _measure(self, model: nn.Module, cost: float) -> None:
        quality = self._quality(model).value
        for knob, rungs in self._ladders.items():
            options: list[tuple[Move | None, float, float]] = [(None, 0.0, 0.0)]
            for move in rungs:
                try:
                    candidate, _ = apply_move(model, self._instantiation, move)
                    saved = cost - self._cost(candidate).value
                    lost = self._quality.lost(quality, self._quality(candidate).value)
                except (NotApplicable, NonFiniteReading):
                    continue
                if saved > 0:
                    options.append((move, saved, max(0.0, lost)))
            if len(options) > 1:
                self._table[knob] = options

    def _plan(self) -> None:
        """Choose the moves still to make: never one that goes back on a knob already turned."""
        knobs = list(self._table)
        if not knobs:
            return
        options = [range(self._taken.get(knob, 0), len(self._table[knob])) for knob in knobs]
        costs = [[-self._table[knob][o][1] for o in places] for knob, places in zip(knobs, options, strict=True)]
        losses = [[self._table[knob][o][2] for o in places] for knob, places in zip(knobs, options, strict=True)]
        try:
            choice = allocate(costs, losses, self._limit - self._start).choice
        except NotApplicable:
            choice = tuple(row.index(min(row)) for row in costs)
        chosen = {knob: places[place] for knob, places, place in zip(knobs, options, choice, strict=True)}
        moves = [(knob, place) for knob, place in chosen.items() if place != self._taken.get(knob, 0)]
        self._planned = sorted(moves, key=lambda item: -self._table[item[0]][item[1]][1])
