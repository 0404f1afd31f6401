"""Acquisition by expected hypervolume improvement.

Candidates are the sampler's proposal, one- and two-knob mutations of the front, and uniform samples; hill climbing
improves the best few. Static costs are exact; surrogates (Gaussian processes on knobs and costs) of all complete trials
predict the other objectives and the limits that only training reveals. The front is that of the trials within the
limits, and the candidate with the largest expected improvement within them wins. While no trial is within, the
candidate that is most probably within wins.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.pareto.dominance import non_dominated
from kmr.core import Value
from sweeps.search.problem import Problem
from sweeps.search.proposals.improvement import expected_gain
from sweeps.search.proposals.mutation import mutations, random_vector
from sweeps.search.proposals.prediction import Array, Costs, Guess, Inputs, Trained, Vector
from sweeps.search.proposals.prefilter import Shortlist
from sweeps.search.proposals.surrogate import Encoder, Surrogate

_MARGIN = 0.1
"""Distance of the reference point beyond the worst relevant value, as a share of that value's distance to the best."""
_NEAREST = 5
"""Trials whose mutations are candidates while none is within the limits."""
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
        self._limits = problem.limits
        bounds = [self._limits.get(name, np.inf * sign) * sign for name, sign in self._signs.items()]
        self._bounds = np.array(bounds, dtype=np.float64)
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
        done: Sequence[Trained],
        running: Sequence[tuple[Vector, Costs]],
        fitting: Callable[[Sequence[Vector]], list[tuple[Vector, Costs]]],
    ) -> Vector | None:
        """Return the candidate with the largest expected improvement, or None if no candidate is new and feasible.

        Args:
            drawn: the inner sampler's proposal.
            done: the complete trials; at least 2.
            running: vector and static costs of the running trials, assumed to end as predicted.
            fitting: filter that keeps new vectors within the limits on static costs, each once, and returns them with
                their static costs.
        """
        learned = done
        if len(done) > _MOST:
            older, newer = done[: -_MOST // 2], done[-_MOST // 2 :]
            learned = [older[i] for i in np.linspace(0, len(older) - 1, _MOST // 2).astype(int).tolist()] + list(newer)
        observed = np.array([trial.values for trial in done]) * self._array_of_signs
        inside = np.array([trial.is_feasible for trial in done])
        front, members = self._front(done, observed, inside)
        pool = self._pool(drawn, members)
        if self._shortlist is None:
            candidates = fitting(pool)
        else:
            candidates = self._listed(self._shortlist, pool, learned, observed[inside], front, fitting)
        names = set.intersection(*(set(trial.costs) for trial in learned))
        candidates = [candidate for candidate in candidates if names <= candidate[1].keys()]
        running = [each for each in running if names <= each[1].keys()]
        if not candidates:
            return None
        guess = self._guesser(learned)
        exact = np.array([name in candidates[0][1] for name in self._signs])
        reference = self._reference(front, observed[inside], observed, exact)
        if running and len(front):
            expected = guess.expected(running)
            front = np.vstack([front, expected[(expected <= self._bounds).all(axis=1)]])
            front = front[non_dominated(front, ["minimize"] * front.shape[1])]

        def ranked(vectors: list[tuple[Vector, Costs]]) -> list[tuple[float, float, Vector, Costs]]:
            gains = self._gains(guess, vectors, front, reference)
            ties = guess.expected(vectors).sum(axis=1)
            return [(-g, t, *v) for g, t, v in zip(gains.tolist(), ties.tolist(), vectors, strict=True)]

        best = sorted(ranked(candidates), key=_score)[:4]
        for _ in range(self._settings.climbs if self._shortlist is None else 0):
            near = fitting([m for _, _, vector, _ in best for m in mutations(self._space, vector, self._rng)])
            near = [candidate for candidate in near if names <= candidate[1].keys()]
            if not near:
                break
            best = sorted([*best, *ranked(near)], key=_score)[:4]
        return best[0][2]

    def _front(self, done: Sequence[Trained], observed: Array, inside: Array) -> tuple[Array, list[Vector]]:
        """Return the front within the limits and its vectors; without one, the vectors that break limits the least."""
        places = np.flatnonzero(inside)
        if len(places):
            places = places[non_dominated(observed[places], ["minimize"] * observed.shape[1])]
            return observed[places], [done[place].vector for place in places.tolist()]
        excess = [
            sum(max(value, 0.0) / (abs(self._limits.get(name, 1.0)) or 1.0) for name, value in trial.violations.items())
            for trial in done
        ]
        nearest = np.argsort(excess, kind="stable")[:_NEAREST]
        return np.empty((0, observed.shape[1])), [done[place].vector for place in nearest.tolist()]

    def _reference(self, front: Array, inside: Array, observed: Array, exact: Array) -> Array:
        """Return the reference point of the improvement.

        An exact objective may be traded off up to the worst value seen. Without one, any objective may be traded off
        at the far end of the front. No value beyond a limit counts.
        """
        if not len(front):
            return np.asarray(observed.max(axis=0))
        far = front.max(axis=0) if exact.any() else np.maximum(front.max(axis=0), np.quantile(inside, 0.9, axis=0))
        unknown = np.where(np.isfinite(self._bounds), self._bounds, far)
        worst = np.where(exact, np.minimum(observed.max(axis=0), self._bounds), unknown)
        best = front.min(axis=0)
        return np.asarray(worst + _MARGIN * np.maximum(worst - best, 1e-12))

    def _gains(self, guess: Guess, vectors: Sequence[tuple[Vector, Costs]], front: Array, reference: Array) -> Array:
        """Return (n,) expected improvements within the limits; without a front, the probability of being within."""
        points, weights = guess(vectors)
        within = np.asarray((points <= self._bounds).all(axis=2))
        if len(front):
            gains = expected_gain(np.where(within[:, :, None], points, reference), weights, front, reference)
        else:
            gains = weights @ within
        return np.asarray(gains * guess.feasible(vectors))

    def _listed(
        self, shortlist: Shortlist, pool: list[Vector], done: Sequence[Trained], inside: Array,
        front: Array, fitting: Callable[[Sequence[Vector]], list[tuple[Vector, Costs]]],
    ) -> list[tuple[Vector, Costs]]:  # fmt: skip
        """Return the best feasible vectors of a pool and its hill climbing, ranked with every objective predicted."""
        for trial in done:
            shortlist.leave_out(trial.vector)
        shortlist.guess.fit()
        of_costs = tuple(shortlist.guess.objectives)
        guess = self._guesser([trial._replace(costs={}) for trial in done], without=of_costs)
        observed = np.array([trial.values for trial in done]) * self._array_of_signs
        reference = self._reference(front, inside, observed, np.zeros(len(self._signs), dtype=np.bool_))

        def gains(vectors: Sequence[Vector]) -> Array:
            costs = {name: shortlist.guess(name, vectors) for name in of_costs}
            readings = [(v, {name: costs[name][i] for name in of_costs}) for i, v in enumerate(vectors)]
            return self._gains(guess, readings, front, reference)

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

    def _guesser(self, done: Sequence[Trained], without: Collection[str] = ()) -> Guess:
        """Fit the surrogates of the objectives and of the limits that are not known before training.

        Args:
            done: trials to fit on.
            without: objectives that are predicted elsewhere and passed as readings, besides the costs in `done`.
        """
        costs = tuple(sorted(set.intersection(*(set(trial.costs) for trial in done))))
        scale = Inputs(self._encoder, costs, done)
        learned = scale([(trial.vector, trial.costs) for trial in done])

        def fitted(name: str, values: Array) -> Surrogate:
            columns = [*self._encoder.columns, *range(len(self._space), len(self._space) + len(costs))]
            model = self._surrogates.setdefault((name, costs), Surrogate(columns))
            model.fit(learned, values)
            return model

        models = {
            name: fitted(name, np.array([trial.values[column] for trial in done]) * sign)
            for column, (name, sign) in enumerate(self._signs.items())
            if name not in costs and name not in without
        }
        limits = {}
        for name in self._limits:
            if name not in costs and name not in self._signs:
                broken = np.array([trial.violations.get(name, 0.0) for trial in done])
                limits[name] = fitted(f"limit on {name}", broken)
        return Guess(scale, self._signs, models, limits)


def _score(candidate: tuple[float, float, Vector, Costs]) -> tuple[float, float]:
    return candidate[0], candidate[1]
