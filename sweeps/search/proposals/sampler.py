"""Sampler around another one that avoids duplicates and infeasible vectors and ranks candidates.

A trial takes seconds to hours and a proposal milliseconds, so computation spent on a proposal pays.
"""

import itertools
import math
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from analysis.pareto.dominance import non_dominated
from kmr.core import Choice, Domain, FloatRange, IntRange
from sweeps.search.problem import Params, Problem
from sweeps.search.proposals.acquisition import Screen, Screening
from sweeps.search.proposals.history import History
from sweeps.search.proposals.mutation import mutations, random_vector
from sweeps.search.proposals.prediction import Trained
from sweeps.search.proposals.thinning import ThinnedStudy
from sweeps.search.space import Space, distributions, grid, is_searched

MOST_REASKS = 10
"""Infeasible proposals in a row that reach the inner sampler before a mutation replaces them."""
_MOST_LISTED = 50_000
_MOST_CORNERS = 250


class Screened(optuna.samplers.BaseSampler):
    """Sampler without duplicates and with few infeasible vectors; with `screening`, it proposes the best candidate.

    Args:
        inner: the inner sampler; TPE and genetic algorithms see the study through `ThinnedStudy`.
        problem: the search problem.
        seed: seed of mutations and random candidates.
        screening: settings of the acquisition; None uses the inner sampler's proposal, replaced by a mutation if it is
            a duplicate or one infeasible proposal too many in a row.
        patience: seconds of search for a replacement after which the search counts as exhausted.
    """

    def __init__(
        self,
        inner: optuna.samplers.BaseSampler,
        problem: Problem,
        seed: int,
        screening: Screening | None = None,
        patience: float = math.inf,
    ) -> None:
        self._patience = patience
        self.inner = inner
        self._inner, self._problem = inner, problem
        self._rng = np.random.default_rng(seed)
        self._distributions = distributions(problem.space)
        self._screen = None if screening is None else Screen(problem, screening, self._rng)
        self._startup, self._explore = (max(screening.startup, 2), screening.explore) if screening else (0, 0)
        self.history = History(problem)
        """History of the study's trials."""
        self._shown = ThinnedStudy()
        self._static: dict[Hashable, Mapping[str, float]] = {}
        self._broken: dict[Hashable, str] = {}
        self._infeasible_in_a_row = 0
        self.rejected = 0
        """Number of candidates for the present proposal that were dropped because a static cost breaks a limit."""
        self.replaced = False
        """Whether the present proposal replaced one that was a duplicate or infeasible."""
        self.exhausted = False
        """Whether no new feasible vector was found."""

    def begin(self) -> None:
        """Reset the state of the last proposal; call before each ask, as an enqueued vector bypasses the sampler."""
        self.rejected, self.replaced, self.exhausted = 0, False, False

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:
            return {}  # an enqueued trial has its vector
        history = self.history
        history.read(study)
        done = history.complete
        drawn = self._draw(study, trial)
        if self._screen is not None and len(done) >= self._startup and not self._explores():
            chosen = self._screen.choose(
                drawn,
                [Trained(t.params, np.array(t.values), self.costs(t.params), t.constraints) for t in done],
                [(t.params, self.costs(t.params)) for t in history.running],
                self._fitting,
            )
            if chosen is not None:
                return chosen
        return self._unseen(drawn)

    def _explores(self) -> bool:
        """Tell whether the inner sampler's proposal is used; among concurrent proposals, one is."""
        idle, every = self.history.idle, self._explore
        return bool(every) and idle >= every and (idle + len(self.history.running)) % every == 0

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)
        if "fixed_params" in trial.system_attrs and isinstance(self._inner, optuna.samplers.BaseGASampler):
            self._inner.get_trial_generation(study, trial)  # otherwise an enqueued vector never becomes a parent

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()
        self._rng.bit_generator.state = np.random.default_rng().bit_generator.state

    def costs(self, params: Params) -> Mapping[str, float]:
        """Return the static costs of a vector, read once; empty if they cannot be read."""
        if self._problem.static_costs is None:
            return {}
        key = self._problem.canonical(params)
        if key not in self._static:
            if len(self._static) >= _MOST_LISTED:
                self._static.clear()
            try:
                self._static[key] = dict(self._problem.static_costs(params))
                if self._screen is not None:
                    self._screen.read(params, self._static[key])
            except Exception as error:  # a user's function, which rejects vectors that cannot be used
                self._broken[key] = f"{type(error).__name__}: {error}"
                self._static[key] = {}
        return self._static[key]

    def trouble(self, params: Params) -> str | None:
        """Return why a vector cannot be used, or None: its static costs cannot be read, or one is not finite."""
        costs, error = self.costs(params), self._broken.get(self._problem.canonical(params))
        strange = [f"{name} is {value}" for name, value in costs.items() if not math.isfinite(value)]
        return error or ", ".join(strange) or None

    def _draw(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        study = self._shown.of(study, self._inner)
        space = self._inner.infer_relative_search_space(study, trial)
        drawn = self._inner.sample_relative(study, trial, space)
        for name, distribution in self._distributions.items():
            if name not in drawn:
                drawn[name] = self._inner.sample_independent(study, trial, name, distribution)
        return drawn

    def _fits(self, params: Params) -> bool:
        if self.history.knows(self._problem.canonical(params)):
            return False
        if self.trouble(params) is None and self._problem.is_feasible(self.costs(params)):
            return True
        self.rejected += 1
        return False

    def _fitting(self, vectors: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], Mapping[str, float]]]:
        once = {self._problem.canonical(vector): vector for vector in vectors}
        return [(vector, self.costs(vector)) for vector in once.values() if self._fits(vector)]

    def _unseen(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Return the inner sampler's proposal if it is feasible or may still teach the sampler, else a replacement."""
        if not self.history.knows(self._problem.canonical(drawn)) and self.trouble(drawn) is None:
            if self._problem.is_feasible(self.costs(drawn)):
                self._infeasible_in_a_row = 0
                return drawn
            self._infeasible_in_a_row += 1
            if self._infeasible_in_a_row <= MOST_REASKS:
                return drawn
        self._infeasible_in_a_row = 0
        self.replaced = True
        until = time.monotonic() + self._patience
        found = self._first_fitting(self._near(drawn), until)
        if found is None:
            if not self.history.feasible:  # no trial was ever feasible, and neither corners nor descent helped
                until = min(until, time.monotonic() + self._patience / 10)
            found = self._first_fitting(self._far(), until)
        self.exhausted = found is None
        return found or drawn

    def _first_fitting(self, candidates: Iterator[dict[str, Any]], until: float) -> dict[str, Any] | None:
        for candidate in candidates:
            if self._fits(candidate):
                return candidate
            if time.monotonic() > until:
                return None
        return None

    def _near(self, drawn: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield likely feasible vectors: near the proposal and the front, at the corners, and after a descent."""
        space, rng = self._problem.space, self._rng
        yield from mutations(space, drawn, rng)
        front = self._front(self.history.feasible)
        for i in rng.permutation(len(front)):
            yield from mutations(space, front[i].params, rng)
        yield from _corners(space)
        yield from self._descent(drawn)

    def _far(self) -> Iterator[dict[str, Any]]:
        space, rng = self._problem.space, self._rng
        for _ in range(1000):
            yield random_vector(space, rng)
        if _size(space) <= _MOST_LISTED:
            listed = grid(space)
            for values in itertools.product(*listed.values()):
                yield dict(zip(listed, values, strict=True))

    def _descent(self, vector: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the end of a greedy descent in the violation of limits, one knob at a time, and its mutations."""
        excess = self._excess(vector)
        while excess > 0:
            near = mutations(self._problem.space, vector, self._rng)
            left = [self._excess(mutant) for mutant in near]
            if not near or min(left) >= excess:
                return
            excess, vector = min(left), near[int(np.argmin(left))]
        yield vector
        yield from mutations(self._problem.space, vector, self._rng)

    def _excess(self, params: Params) -> float:
        broken = self._problem.violations(self.costs(params))
        return sum(max(value, 0.0) / (abs(self._problem.limits[name]) or 1.0) for name, value in broken.items())

    def _front(self, done: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        if not done:
            return []
        values = np.array([trial.values for trial in done])
        mask = non_dominated(values, list(self._problem.objectives.values()))
        return [trial for trial, on_front in zip(done, mask, strict=True) if on_front]


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield the vectors with every knob at an end or neutral, most extreme first, as these often meet the limits."""
    ends = [_ends(domain) for domain in space.values()]
    if math.prod(map(len, ends)) <= _MOST_CORNERS:
        for values in itertools.product(*ends):
            yield dict(zip(space, values, strict=True))


def _ends(domain: Domain) -> list[Any]:
    values = [domain.values[-1], domain.values[0]] if isinstance(domain, Choice) else [domain.high, domain.low]
    far = [value for value in values if value != domain.neutral]
    return [*far, domain.neutral] if is_searched(domain, domain.neutral) else far or values[:1]


def _size(space: Space) -> float:
    """Return the number of vectors, infinite if a knob is continuous."""
    return float(np.prod([_count(domain) for domain in space.values()]))


def _count(domain: Domain) -> float:
    match domain:
        case Choice(values):
            return len(values)
        case FloatRange(low, high, _, None):
            return 1.0 if low == high else np.inf
        case FloatRange(low, high, _, step) | IntRange(low, high, _, step):
            return (high - low) // (step or 1) + 1
