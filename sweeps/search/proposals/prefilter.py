"""Prefilter that selects the candidates whose static costs are read, for costs that are slow to read.

A surrogate fitted on all costs read in this run predicts the costs and limit violations of the other vectors. A
candidate is ranked by its expected improvement times its probability of feasibility.
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
"""Number of newest vectors on which the costs are fitted."""
_MOST_OUT = 50_000
"""Most excluded vectors that are remembered."""
_ROUNDS = 4
"""Most shortlists per proposal; each infeasible one improves the predictions for the next."""


class CostGuess:
    """Predictor of static costs, fitted on the costs that have been read.

    Args:
        problem: the search problem.
        encoder: encoder of its vectors.
    """

    def __init__(self, problem: Problem, encoder: Encoder) -> None:
        self._problem, self._encoder = problem, encoder
        self._read: deque[tuple[Vector, Costs]] = deque(maxlen=_MOST)
        self._models: dict[str, Surrogate] = {}
        self._limits: dict[str, Surrogate] = {}

    @property
    def objectives(self) -> Collection[str]:
        """Names of the objectives that can be predicted."""
        return self._models.keys()

    def read(self, vector: Mapping[str, Value], readings: Costs) -> None:
        """Add the finite costs of a vector."""
        finite = {name: value for name, value in readings.items() if math.isfinite(value)}
        self._read.append((dict(vector), finite))

    def fit(self) -> None:
        """Fit the surrogates on the costs read so far."""
        for name in self._problem.objectives:
            self._fit(self._models, name, [(v, self._sign(name) * r[name]) for v, r in self._read if name in r])
        for name in self._problem.limits:
            broken = [(v, self._problem.violations(r)[name]) for v, r in self._read if name in r]
            self._fit(self._limits, name, broken)

    def __call__(self, name: str, vectors: Sequence[Vector]) -> Array:
        """Return (n,) predictions of an objective."""
        model = self._models[name]
        return self._sign(name) * model.unwarp(model.predict(self._encoder(vectors))[0])

    def feasible(self, vectors: Sequence[Vector]) -> Array:
        """Return (n,) probabilities of feasibility."""
        encoded = self._encoder(vectors)
        likely = np.ones(len(vectors))
        for model in self._limits.values():
            likely *= model.probability_below(encoded, 0.0)
        return likely

    def _fit(self, models: dict[str, Surrogate], name: str, rows: Sequence[tuple[Vector, float]]) -> None:
        if len(rows) > 1:
            model = models.setdefault(name, Surrogate(self._encoder.columns.tolist()))
            model.fit(self._encoder([vector for vector, _ in rows]), np.array([value for _, value in rows]))

    def _sign(self, name: str) -> int:
        return -1 if self._problem.objectives[name] == "maximize" else 1


class Shortlist:
    """Selection of the candidates whose costs are read.

    Args:
        problem: the search problem.
        encoder: encoder of its vectors.
        size: number of candidates whose costs are read at once.
    """

    def __init__(self, problem: Problem, encoder: Encoder, size: int) -> None:
        self._problem, self._size = problem, size
        self.guess = CostGuess(problem, encoder)
        """Predictor of unread costs; every cost that is read must be added to it."""
        self._out: set[Key] = set()

    def pick(
        self,
        pool: Sequence[Vector],
        gains: Callable[[Sequence[Vector]], Array],
        near: Callable[[Sequence[Vector]], Sequence[Vector]],
        climbs: int,
        fitting: Callable[[Sequence[Vector]], list[tuple[Vector, Costs]]],
    ) -> list[tuple[Vector, Costs]]:
        """Return the best feasible candidates of a pool and its hill climbing, with their costs.

        Args:
            pool: candidates.
            gains: function to (n,) expected improvements by the present predictions; `guess` has been fitted.
            near: function to the mutations of vectors.
            climbs: rounds of hill climbing from the best four.
            fitting: filter as in `sweeps.search.proposals.acquisition.Screen.choose`.
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
        """Exclude a vector from later picks."""
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
