"""The random policy: the baseline for every other policy."""

import random
from collections.abc import Mapping
from typing import final

from torch import nn

from kmr.core import Budget, Domain, Instantiation, Move, Policy, Readings
from kmr.policies.ladder import ladders


@final
class RandomPolicy(Policy):
    """Policy that turns a random knob to a random rung, except a move that was refused on the current model.

    Args:
        instantiation: the instantiation whose knobs are turned.
        budget: the run's budget (the choice does not depend on it).
        space: narrower domains by knob name; a knob missing from it is not turned.
        levels: rungs of each ladder.
        seed: seed of the choices.
    """

    def __init__(
        self,
        instantiation: Instantiation,
        budget: Budget,
        space: Mapping[str, Domain] | None = None,
        *,
        levels: int = 6,
        seed: int = 0,
    ) -> None:
        self._moves = [move for climb in ladders(instantiation, space, levels).values() for move in climb]
        self._random = random.Random(seed)
        self._refused: set[Move] = set()
        self._last: Move | None = None

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        if self._last not in self._refused:
            self._refused.clear()
        left = [move for move in self._moves if move not in self._refused]
        self._last = self._random.choice(left) if left else None
        return self._last

    def refuse(self, move: Move) -> None:
        self._refused.add(move)
