"""The greedy policy: the candidate that loses the least quality per unit of cost saved (paper, section 3.4)."""

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
    measure,
)
from kmr.policies.ladder import ladders


@final
class Greedy(Policy):
    """Tries the next rung of every knob and takes the one with the smallest ΔQ/ΔC.

    Candidates are measured without fine-tuning. A rung that saves nothing is passed over for the one above it.

    Args:
        instantiation: whose knobs are turned.
        budget: whose cost is saved.
        space: narrower domains by knob name; a knob it leaves out is not turned.
        levels: rungs of each ladder.
        probe: the quality meters of which the first judges; on a small split they make candidates cheap. By default
            the instantiation's own.
    """

    def __init__(
        self,
        instantiation: Instantiation,
        budget: Budget,
        space: Mapping[str, Domain] | None = None,
        *,
        levels: int = 4,
        probe: Sequence[Quality] | None = None,
    ) -> None:
        self._instantiation = instantiation
        self._cost = next(cost for cost in instantiation.costs if cost.name == budget.cost)
        qualities = tuple(probe) if probe else instantiation.qualities
        if not qualities:
            raise KMRError("the greedy policy needs a quality meter")
        self._quality = qualities[0]
        self._waiting = ladders(instantiation, space, levels)

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        here = self._quality(model).value
        best: tuple[float, Move] | None = None
        for knob in self._waiting:
            found = self._next_saving(model, knob, costs[self._cost.name].value)
            if found is None:
                continue
            move, candidate, saved = found
            try:
                lost = here - measure(candidate, [self._quality])[self._quality.name].value
            except NonFiniteReading:
                continue
            if best is None or lost / saved < best[0]:
                best = (lost / saved, move)
        if best is None:
            return None
        move = best[1]
        self._waiting[move.knob].remove(move)
        return move

    def _next_saving(self, model: nn.Module, knob: str, cost: float) -> tuple[Move, nn.Module, float] | None:
        while self._waiting[knob]:
            move = self._waiting[knob][0]
            try:
                candidate, _ = apply_move(model, self._instantiation, move)
                saved = cost - self._cost(candidate).value
            except NotApplicable:
                saved = 0.0
            if saved > 0:
                return move, candidate, saved
            self._waiting[knob].pop(0)
        return None
