"""Which few of many candidates have their costs read, where that takes long: what is read of some tells of the others.

A cost of a vector that has not been read is guessed from all that have been, whether trained or turned down, and so is
whether a limit is broken; a candidate counts by its expected gain times the probability that it breaks none.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from sweeps.problem import Problem
from sweeps.surrogate import Encoder, Surrogate

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Vector: TypeAlias = dict[str, Any]
Readings: TypeAlias = Mapping[str, float]
Key: TypeAlias = tuple[Any, ...]

_MOST = 300
"""Vectors the costs are learned from, the newest."""
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
        self._read: dict[Key, tuple[Vector, Readings]] = {}
        self._models: dict[str, Surrogate] = {}
        self._limits: dict[str, Surrogate] = {}

    def read(self, vector: Vector, readings: Readings) -> None:
        """Take in the costs of a vector, where there are any."""
        if readings:
            self._read[self._key(vector)] = (vector, readings)

    @property
    def objectives(self) -> Collection[str]:
        """Those that can be guessed."""
        return self._models.keys()

    def fit(self) -> None:
        """Learn from what has been read."""
        rows = list(self._read.values())[-_MOST:]
        if len(rows) < 2:
            return
        encoded = self._encoder([vector for vector, _ in rows])
        names = set.intersection(*(set(readings) for _, readings in rows))
        for name, way in self._problem.objectives.items():
            if name in names:
                sign = -1 if way == "maximize" else 1
                self._fit(self._models, name, encoded, [sign * readings[name] for _, readings in rows])
        broken = [self._problem.violations(readings) for _, readings in rows]
        for name in self._problem.limits:
            if name in names:
                self._fit(self._limits, name, encoded, [one[name] for one in broken])

    def __call__(self, name: str, vectors: Sequence[Vector]) -> Array:
        """Return (n,) guesses of an objective, to minimise."""
        model = self._models[name]
        return model.unwarp(model.predict(self._encoder(vectors))[0])

    def feasible(self, vectors: Sequence[Vector]) -> Array:
        """Return (n,) probabilities that no limit is broken."""
        encoded = self._encoder(vectors)
        likely = np.ones(len(vectors))
        for model in self._limits.values():
            likely *= model.probability_below(encoded, 0.0)
        return likely

    def _fit(self, models: dict[str, Surrogate], name: str, encoded: Array, values: Sequence[float]) -> None:
        model = models.setdefault(name, Surrogate(self._encoder.nominal.tolist()))
        model.fit(encoded, np.array(values, dtype=np.float64))

    def _key(self, vector: Vector) -> Key:
        return tuple(vector[name] for name in self._problem.space)


class Shortlist:
    """Picks the candidates whose costs are read.

    Args:
        problem: what is searched.
        encoder: of its vectors.
        size: how many have their costs read at once.
        costs: reads those of a vector; what has been read once is at hand.
    """

    def __init__(self, problem: Problem, encoder: Encoder, size: int, costs: Callable[[Vector], Readings]) -> None:
        self._problem, self._size, self._costs = problem, size, costs
        self.guess = CostGuess(problem, encoder)
        """Of the costs that have not been read."""
        self._out: set[Key] = set()

    def pick(
        self,
        pool: Sequence[Vector],
        gains: Callable[[Sequence[Vector]], Array],
        near: Callable[[Sequence[Vector]], Sequence[Vector]],
        climbs: int,
        fitting: Callable[[Sequence[Vector]], list[tuple[Vector, Readings]]],
    ) -> list[tuple[Vector, Readings]]:
        """Return those of a pool, and of what climbs from it, that look best and fit, with their costs.

        Args:
            pool: candidates.
            gains: (n,) expected, by what is guessed now.
            near: vectors near those given.
            climbs: times that the best four are joined by what is near them.
            fitting: as in `sweeps.screening.Screen.choose`.
        """
        found: dict[Key, Vector] = {}
        scores: dict[Key, float] = {}
        self.guess.fit()
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
            self._out |= {self._key(vector) for vector in short} - fit
            for vector in short:
                self.guess.read(vector, self._costs(vector))
            if candidates or not found:
                return candidates
            self.guess.fit()
            scores = self._scored(found, gains)
        return []

    def take(self, vector: Vector, readings: Readings) -> None:
        """Take in the costs of a vector that has been trained; it is not picked again."""
        self._out.add(self._key(vector))
        self.guess.read(vector, readings)

    def _scored(self, vectors: Mapping[Key, Vector], gains: Callable[[Sequence[Vector]], Array]) -> dict[Key, float]:
        if not vectors:
            return {}
        listed = list(vectors.values())
        return dict(zip(vectors, (gains(listed) * self.guess.feasible(listed)).tolist(), strict=True))

    def _best(self, scores: Mapping[Key, float]) -> list[Key]:
        return sorted(scores, key=lambda key: -scores[key])

    def _key(self, vector: Vector) -> Key:
        return tuple(vector[name] for name in self._problem.space)
