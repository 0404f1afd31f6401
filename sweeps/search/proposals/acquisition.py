"""Acquisition by expected hypervolume improvement.

Candidates are the sampler's proposal, one- and two-knob mutations of the front, and uniform samples; hill climbing
improves the best few. Static costs are exact; a surrogate (Gaussian processes on knobs and costs) predicts the other
objectives; the candidate with the largest expected improvement wins.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from analysis.pareto.dominance import non_dominated
from kmr.core import Value
from sweeps.search.problem import Problem
from sweeps.search.proposals.improvement import expected_gain
from sweeps.search.proposals.mutation import mutations, random_vector
from sweeps.search.proposals.prefilter import Shortlist
from sweeps.search.proposals.surrogate import Encoder, Surrogate

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Vector: TypeAlias = dict[str, Any]
Costs: TypeAlias = Mapping[str, float]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_MARGIN = 0.1
"""Distance of the reference point beyond the worst relevant value, as a share of that value's distance to the best."""
_MOST = 300
"""Most trials that the surrogate is fitted on: one half the newest, the other an even selection of the older ones."""


@dataclass(frozen=True)
class Screening:
    """Settings of the acquisition.

    Args:
        mutants: most candidates one knob away from the front.
        pairs: candidates two knobs away from the front.
        randoms: candidates sampled uniformly.
        climbs: rounds of hill climbing, each of which adds the mutations of the best four candidates.
        startup: finished trials before the surrogate is used.
        explore: number of trials in a row without a new front member after which the inner sampler's own proposal is
            used once, because the surrogate's predictions fail; 0 turns this off.
        shortlist: for static costs that are slow to read, the number of candidates whose costs are read: the best ones
            by costs predicted from those read so far; None reads all.
    """

    mutants: int = 300
    pairs: int = 150
    randoms: int = 150
    climbs: int = 2
    startup: int = 10
    explore: int = 2
    shortlist: int | None = None


class Screen:
    """Ranking of one study's candidates; it keeps the surrogates, so that each fit starts from the last one.

    Args:
        problem: the search problem.
        settings: settings of the acquisition.
        rng: random generator of the pool.
    """

    def __init__(self, problem: Problem, settings: Screening, rng: np.random.Generator) -> None:
        self._space, self._settings, self._rng = problem.space, settings, rng
        self._signs = {name: 1 if way == "minimize" else -1 for name, way in problem.objectives.items()}
        self._array_of_signs = np.array(list(self._signs.values()), dtype=np.float64)
        self._encoder = Encoder(problem.space)
        self._surrogates: dict[tuple[str, tuple[str, ...]], Surrogate] = {}
        self._shortlist: Shortlist | None = None
        if settings.shortlist is not None:
            self._shortlist = Shortlist(problem, self._encoder, settings.shortlist)

    def read(self, vector: Mapping[str, Value], costs: Costs) -> None:
        """Add the static costs of a vector, whether or not it is evaluated."""
        if self._shortlist is not None:
            self._shortlist.guess.read(vector, costs)

    def choose(
        self,
        drawn: Vector,
        done: Sequence[tuple[Vector, Array, Costs]],
        running: Sequence[tuple[Vector, Costs]],
        fitting: Callable[[Sequence[Vector]], list[tuple[Vector, Costs]]],
    ) -> Vector | None:
        """Return the candidate with the largest expected improvement, or None if no candidate is new and feasible.

        Args:
            drawn: the inner sampler's proposal.
            done: vector, (d,) values in the study's order and static costs of the feasible finished trials; at least 2.
            running: vector and static costs of the running trials, assumed to end as predicted.
            fitting: filter that keeps new, feasible vectors, each once, and returns them with their static costs.
        """
        learned = done
        if len(done) > _MOST:
            older, newer = done[: -_MOST // 2], done[-_MOST // 2 :]
            learned = [older[i] for i in np.linspace(0, len(older) - 1, _MOST // 2).astype(int).tolist()] + list(newer)
        signs = self._array_of_signs
        observed = np.array([values for _, values, _ in done]) * signs
        on_front = non_dominated(observed, ["minimize"] * len(signs))
        front = observed[on_front]
        members = [vector for (vector, _, _), is_on in zip(done, on_front, strict=True) if is_on]
        pool = self._pool(drawn, members)
        if self._shortlist is None:
            candidates = fitting(pool)
        else:
            candidates = self._listed(self._shortlist, pool, learned, observed, front, fitting)
        names = set.intersection(*(set(readings) for _, _, readings in learned))
        candidates = [candidate for candidate in candidates if names <= candidate[1].keys()]
        running = [each for each in running if names <= each[1].keys()]
        if not candidates:
            return None
        guess = self._guesser(learned)
        exact = np.array([name in candidates[0][1] for name in self._signs])
        # Without an exact objective, any objective may be traded off at the far end of the front.
        far = front.max(axis=0) if exact.any() else np.maximum(front.max(axis=0), np.quantile(observed, 0.9, axis=0))
        worst = np.where(exact, observed.max(axis=0), far)
        reference = worst + _MARGIN * np.maximum(worst - front.min(axis=0), 1e-12)
        if running:
            expected = guess(running)[len(_NODES) // 2]
            front = np.vstack([front, expected])
            front = front[non_dominated(front, ["minimize"] * len(signs))]

        def ranked(vectors: list[tuple[Vector, Costs]]) -> list[tuple[float, float, Vector, Costs]]:
            points = guess(vectors)
            gains = expected_gain(points, _WEIGHTS, front, reference)
            ties = points[len(_NODES) // 2].sum(axis=1)
            return [(-g, t, *v) for g, t, v in zip(gains.tolist(), ties.tolist(), vectors, strict=True)]

        best = sorted(ranked(candidates), key=_score)[:4]
        for _ in range(self._settings.climbs if self._shortlist is None else 0):
            near = fitting([m for _, _, vector, _ in best for m in mutations(self._space, vector, self._rng)])
            near = [candidate for candidate in near if names <= candidate[1].keys()]
            if not near:
                break
            best = sorted([*best, *ranked(near)], key=_score)[:4]
        return best[0][2]

    def _listed(
        self, shortlist: Shortlist, pool: list[Vector], done: Sequence[tuple[Vector, Array, Costs]], observed: Array,
        front: Array, fitting: Callable[[Sequence[Vector]], list[tuple[Vector, Costs]]],
    ) -> list[tuple[Vector, Costs]]:  # fmt: skip
        """Return the best feasible vectors of a pool and its hill climbing, ranked with every objective predicted."""
        for vector, _, _ in done:
            shortlist.leave_out(vector)
        far = np.maximum(front.max(axis=0), np.quantile(observed, 0.9, axis=0))
        reference = far + _MARGIN * np.maximum(far - front.min(axis=0), 1e-12)
        shortlist.guess.fit()
        of_costs = tuple(shortlist.guess.objectives)
        guess = self._guesser([(vector, values, {}) for vector, values, _ in done], without=of_costs)

        def gains(vectors: Sequence[Vector]) -> Array:
            costs = {name: shortlist.guess(name, vectors) for name in of_costs}
            points = guess([(v, {name: costs[name][i] for name in of_costs}) for i, v in enumerate(vectors)])
            return expected_gain(points, _WEIGHTS, front, reference)

        def near(vectors: Sequence[Vector]) -> list[Vector]:
            return [m for vector in vectors for m in mutations(self._space, vector, self._rng)]

        return shortlist.pick(pool, gains, near, self._settings.climbs, fitting)

    def _pool(self, drawn: Vector, members: Sequence[Mapping[str, Value]]) -> list[Vector]:
        settings, rng = self._settings, self._rng
        bred = [mutant for member in members for mutant in mutations(self._space, member, rng)]
        order = rng.permutation(len(bred))[: settings.mutants]
        ones = [bred[i] for i in order]
        twos = [m for one in ones[: settings.pairs] for m in mutations(self._space, one, rng)[:1]]
        return [drawn, *ones, *twos, *(random_vector(self._space, rng) for _ in range(settings.randoms))]

    def _guesser(
        self, done: Sequence[tuple[Vector, Array, Costs]], without: Collection[str] = ()
    ) -> Callable[[Sequence[tuple[Vector, Costs]]], Array]:
        """Fit the surrogates; return a function from n vectors to their (nodes, n, d) values, to minimise.

        Args:
            done: vectors, values and static costs to fit on.
            without: objectives that are predicted elsewhere and passed as readings, besides the costs in `done`.
        """
        signs = self._array_of_signs
        costs = tuple(sorted(set.intersection(*(set(readings) for _, _, readings in done))))
        known = np.array([[readings[name] for name in costs] for _, _, readings in done])
        low, extent = (known.min(axis=0), np.ptp(known, axis=0)) if costs else (0.0, 1.0)
        extent = np.where(extent == 0, 1.0, extent)

        def inputs(vectors: Sequence[Vector], readings: Sequence[Costs]) -> Array:
            given = np.array([[one[name] for name in costs] for one in readings]).reshape(len(vectors), len(costs))
            return np.hstack([self._encoder(vectors), (given - low) / extent])

        learned = inputs([vector for vector, _, _ in done], [readings for _, _, readings in done])
        models = {}
        for column, name in enumerate(self._signs):
            if name not in costs and name not in without:
                model = self._surrogates.setdefault(
                    (name, costs), Surrogate([*self._encoder.nominal, *(False for _ in costs)])
                )
                model.fit(learned, np.array([values[column] for _, values, _ in done]) * signs[column])
                models[name] = model

        def guess(vectors: Sequence[tuple[Vector, Costs]]) -> Array:
            points = np.empty((len(_NODES), len(vectors), len(signs)))
            encoded = inputs([vector for vector, _ in vectors], [readings for _, readings in vectors])
            for column, (name, sign) in enumerate(self._signs.items()):
                if name in models:
                    mean, std = models[name].predict(encoded)
                    points[:, :, column] = models[name].unwarp(mean + _NODES[:, None] * std)
                else:
                    points[:, :, column] = [sign * readings[name] for _, readings in vectors]
            return points

        return guess


def _score(candidate: tuple[float, float, Vector, Costs]) -> tuple[float, float]:
    return candidate[0], candidate[1]
