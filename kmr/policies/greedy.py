"""The greedy policy: the move with the least loss of quality per unit of cost saved (paper, section 3.4)."""

from collections.abc import Iterator, Mapping, Sequence
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
from kmr.policies.ladder import ladders


@final
class Greedy(Policy):
    """Policy that tries the next rung of every knob and takes the move with the smallest ΔQ/ΔC (loss per saving).

    Candidates are measured without fine-tuning. A rung that saves nothing is skipped. With `lookahead` above 1,
    sequences of up to that many moves are tried, and the first move of the best sequence is taken. This finds an
    expensive move that makes the next ones cheap. The number of candidates grows as knobs to the power of `lookahead`.

    Args:
        instantiation: the instantiation whose knobs are turned.
        budget: the budget whose cost is saved.
        space: narrower domains by knob name; a knob missing from it is not turned.
        levels: rungs of each ladder.
        lookahead: most moves of a sequence, at least 1. A sequence ends when the budget is met.
        probe: quality meters, of which the first judges; a small split makes candidates cheap. By default those of the
            instantiation.
    """

    def __init__(
        self,
        instantiation: Instantiation,
        budget: Budget,
        space: Mapping[str, Domain] | None = None,
        *,
        levels: int = 4,
        lookahead: int = 1,
        probe: Sequence[Quality] | None = None,
    ) -> None:
        if lookahead < 1:
            raise KMRError(f"the lookahead of the greedy policy must be at least 1, not {lookahead}")
        self._instantiation = instantiation
        self._cost = next(cost for cost in instantiation.costs if cost.name == budget.cost)
        qualities = tuple(probe) if probe else instantiation.qualities
        if not qualities:
            raise KMRError("the greedy policy needs a quality meter: pass probe, or add one to the instantiation")
        self._quality = qualities[0]
        self._limit = budget.limit
        self._lookahead = lookahead
        self._ladders = ladders(instantiation, space, levels)
        self._places = dict.fromkeys(self._ladders, 0)

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        here, cost = self._quality(model).value, costs[self._cost.name].value
        best: tuple[float, Move] | None = None
        for first, candidate, after in self._sequences(model, cost, self._places, self._lookahead):
            try:
                lost = self._quality.lost(here, self._quality(candidate).value)
            except NonFiniteReading:
                continue
            if best is None or lost / (cost - after) < best[0]:
                best = (lost / (cost - after), first)
        if best is None:
            return None
        self._places[best[1].knob] += 1
        return best[1]

    def _sequences(
        self, model: nn.Module, cost: float, places: dict[str, int], depth: int
    ) -> Iterator[tuple[Move, nn.Module, float]]:
        """Yield the first move, the model and the cost of every sequence, each before its extensions.

        `places`, the next rung of each knob, is moved above rungs that save nothing.
        """
        for knob in self._ladders:
            found = self._next_saving(model, knob, cost, places)
            if found is None:
                continue
            move, candidate, after = found
            yield move, candidate, after
            if depth > 1 and after > self._limit:
                beyond = {**places, knob: places[knob] + 1}
                for _, further, least in self._sequences(candidate, after, beyond, depth - 1):
                    yield move, further, least

    def _next_saving(
        self, model: nn.Module, knob: str, cost: float, places: dict[str, int]
    ) -> tuple[Move, nn.Module, float] | None:
        while places[knob] < len(self._ladders[knob]):
            move = self._ladders[knob][places[knob]]
            try:
                candidate, _ = apply_move(model, self._instantiation, move)
                after = self._cost(candidate).value
            except NotApplicable:
                after = cost
            if after < cost:
                return move, candidate, after
            places[knob] += 1
        return None
