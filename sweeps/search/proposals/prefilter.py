"""Which few of many candidates have their costs read, where that takes long: what is read of some tells of the others.

A cost of a vector that has not been read is guessed from those that have been in this run, whether they fit or not, and
so is whether a limit is broken; a candidate counts by its expected gain times the probability that it breaks none.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from kmr.core import Value
from sweeps.search.problem import Problem
from sweeps.search.proposals.surrogate import Encoder, Surrogate

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Vector: TypeAlias = dict[str, Any]
Costs: TypeAlias = Mapping[str, float]
Key: TypeAlias = tuple[Any, ...]

_MOST = 120
"""Vectors the costs are learned from, the newest."""
_MOST_OUT = 50_000
"""Vectors that are known not to be worth a look, before they are forgotten."""
_ROUNDS = 4
"""How often a shortlist of which nothing fits gives way to the next, by what was learned from it."""


class CostGuess:
    """Guesses the static costs of vectors by those that have been read.

    Args:
        problem: what is searched.
        encoder: of its vectors.
    """

    def __init__(self, problem: Problem, encoder: Encoder) -> None:
        self._problem, self._encoder = problem, encoder
        self._read: deque[tuple[Vector, Costs]] = deque(maxlen=_MOST)
        self._models: dict[str, Surrogate] = {}
        self._limits: dict[str, Surrogate] = {}

    @property
    def objectives(self) -> Collection[str]:
        """Those that can be guessed."""
        return self._models.keys()

    def read(self, vector: Mapping[str, Value], readings: Costs) -> None:
        """Take in the costs of a vector, those that are numbers."""
        finite = {name: value for name, value in readings.items() if math.isfinite(value)}
        self._read.append((dict(vector), finite))

    def fit(self) -> None:
        """Learn from what has been read."""
        for name in self._problem.objectives:
            self._fit(self._models, name, [(v, self._sign(name) * r[name]) for v, r in self._read if name in r])
        for name in self._problem.limits:
            broken = [(v, self._problem.violations(r)[name]) for v, r in self._read if name in r]
            self._fit(self._limits, name, broken)

    def __call__(self, name: str, vectors: Sequence[Vector]) -> Array:
        """Return (n,) guesses of an objective."""
        model = self._models[name]
        return self._sign(name) * model.unwarp(model.predict(self._encoder(vectors))[0])

    def feasible(self, vectors: Sequence[Vector]) -> Array:
        """Return (n,) probabilities that no limit is broken."""
        encoded = self._encoder(vectors)
        likely = np.ones(len(vectors))
        for model in self._limits.values():
            likely *= model.probability_below(encoded, 0.0)
        return likely

    def _fit(self, models: dict[str, Surrogate], name: str, rows: Sequence[tuple[Vector, float]]) -> None:
        if len(rows) > 1:
            model = models.setdefault(name, Surrogate(self._encoder.nominal.tolist()))
            model.fit(self._encoder([vector for vector, _ in rows]), np.array([value for _, value in rows]))

    def _sign(self, name: str) -> int:
        return -1 if self._problem.objectives[name] == "maximize" else 1


class Shortlist:
    """Picks the candidates whose costs are read.

    Args:
        problem: what is searched.
        encoder: of its vectors.
        size: how many have their costs read at once.
    """

    def __init__(self, problem: Problem, encoder: Encoder, size: int) -> None:
        self._problem, self._size = problem, size
        self.guess = CostGuess(problem, encoder)
        """Of the costs that have not been read; whoever reads some tells it."""
        self._out: set[Key] = set()

    def pick(
        self,
        pool: Sequence[Vector],
        gains: Callable[[Sequence[Vector]], Array],
        near: Callable[[Sequence[Vector]], Sequence[Vector]],
        climbs: int,
        fitting: Callable[[Sequence[Vector]], list[tuple[Vector, Costs]]],
    ) -> list[tuple[Vector, Costs]]:
        """Return those of a pool, and of what climbs from it, that look best and fit, with their costs.

        Args:
            pool: candidates.
            gains: (n,) expected, by what is guessed now; `guess` has been fitted.
            near: vectors near those given.
            climbs: times that the best four are joined by what is near them.
            fitting: as in `sweeps.search.proposals.acquisition.Screen.choose`.
        """
        found: dict[Key, Vector] = {}
        scores: dict[Key, float] = {}
        for climb in range(climbs + 1):
            if climb:
                pool = near([found[key] for key in self._best(scores)[:4]])
            fresh = {key: v for v in pool if (key := self._key(v)) not in self._out and key not in found}
            found |= fresh
            scores |= self._scored(fresh, gains)
        for _ in range(_ROUNDS):
            short = [found.pop(key) for key in self._best(scores)[: self._size]]
            candidates = fitting(short)
            fit = {self._key(vector) for vector, _ in candidates}
            for vector in short:
                if self._key(vector) not in fit:
                    self.leave_out(vector)
            if candidates or not found:
                return candidates
            self.guess.fit()
            scores = self._scored(found, gains)
        return []

    def leave_out(self, vector: Mapping[str, Value]) -> None:
        """Never pick a vector, one that has been trained."""
        if len(self._out) >= _MOST_OUT:
            self._out.clear()
        self._out.add(self._key(vector))

    def _scored(self, vectors: Mapping[Key, Vector], gains: Callable[[Sequence[Vector]], Array]) -> dict[Key, float]:
        if not vectors:
            return {}
        listed = list(vectors.values())
        return dict(zip(vectors, (gains(listed) * self.guess.feasible(listed)).tolist(), strict=True))

    def _best(self, scores: Mapping[Key, float]) -> list[Key]:
        return sorted(scores, key=lambda key: -scores[key])

    def _key(self, vector: Mapping[str, Value]) -> Key:
        return tuple(vector[name] for name in self._problem.space)
