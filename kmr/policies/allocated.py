"""The allocated policy: one measurement of every rung's loss and saving, then an allocation of the budget to knobs."""

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
    """Policy that chooses the rungs with the least total loss of quality within the budget.

    At its first call it measures every rung of every knob on its own, without fine-tuning. Losses and savings are
    assumed to add up, as they nearly do for the bits of layers, and the best choice within the budget is a knapsack
    problem (`kmr.knapsack`). If the real cost exceeds the budget, the excess is subtracted and the problem solved
    again. With one knob for each layer this is mixed precision by sensitivity (Dong et al. 2019) or layer-wise pruning.

    Args:
        instantiation: the instantiation whose knobs are turned.
        budget: the budget to allocate.
        space: narrower domains by knob name; a knob missing from it is not turned.
        levels: rungs of each ladder.
        probe: quality meters, of which the first measures the loss; a loss function resolves smaller differences than
            an accuracy. By default those of the instantiation.
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
            raise KMRError("the allocated policy needs a quality meter: pass probe, or add one to the instantiation")
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
            # Savings on the same layers multiply instead, so that their sum may predict far less than the real cost.
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
        """Choose the remaining moves; none lowers a knob that has been turned."""
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
