"""Proposing: what to train next, once duplicates and what cannot be used are taken out.

A trial costs seconds to hours and a proposal milliseconds, so a proposal is worth some thought. `Screened` is an Optuna
sampler around another one: it never returns a vector that leads to a model already trained, gives up on vectors that
break a limit on a cost known before training after a few asks, and, with `Screening`, picks the candidate with the
largest expected gain of hypervolume. `Proposer` asks for trials with it and tells the study of those that are
infeasible, with the values of their constraints, so that the inner sampler learns from them.
"""

import itertools
import math
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from analysis.front import non_dominated
from kmr.core import Choice, Domain, FloatRange, IntRange
from sweeps.bounds import Bound
from sweeps.errors import SweepError
from sweeps.history import History
from sweeps.neighbours import mutations, random_vector
from sweeps.problem import Params, Problem
from sweeps.screening import Screen, Screening
from sweeps.shown import Shown
from sweeps.space import Space, distributions, grid, is_searched

PROPOSAL = "kmr:proposal"
"""The user attribute that says how a trial was proposed: `rejected`, `replaced`, and `screened` if it ended there."""
MOST_REASKS = 10
"""Infeasible draws in a row that the inner sampler is told of before a mutation takes their place."""
MOST_TURNED_DOWN = 1000
"""Vectors in a row that are turned down before nothing is thought to be left; a fixed sequence may never fit."""
_MOST_LISTED = 50_000
_MOST_CORNERS = 250


class Proposal(NamedTuple):
    """A trial to train, and the static costs of its vector."""

    trial: optuna.Trial
    static: Mapping[str, float]


class Screened(optuna.samplers.BaseSampler):
    """Wraps a sampler: no duplicates, no infeasible vectors beyond a few, and, with `screening`, the most promising.

    Args:
        inner: draws candidates; it sees the study as it is, TPE what `Shown` leaves of it.
        problem: what is searched.
        seed: of mutations and random candidates.
        screening: how candidates are compared; None takes the inner sampler's draw, or a one-knob mutation in its place
            where it has been trained or, too often in a row, is infeasible.
        patience: seconds of looking for a substitute after which there is taken to be none.
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
        self._inner, self._problem, self._screening = inner, problem, screening
        self._rng = np.random.default_rng(seed)
        self._distributions = distributions(problem.space)
        self._signs = {name: 1 if way == "minimize" else -1 for name, way in problem.objectives.items()}
        self._screen = None if screening is None else Screen(problem.space, self._signs, screening, self._rng)
        self.history = History(problem)
        """What has been tried."""
        self._shown = Shown()
        self._static: dict[Hashable, Mapping[str, float]] = {}
        self._broken: dict[Hashable, str] = {}
        self._infeasible_in_a_row = 0
        self.rejected = 0
        """Candidates of the present proposal dropped because a cost known beforehand breaks a limit."""
        self.replaced = False
        """Whether the present proposal took the place of a draw that had been trained before or is infeasible."""
        self.exhausted = False
        """Whether no vector was found that is new and breaks no known limit."""

    def begin(self) -> None:
        """Forget what the last proposal was like; the sampler is not asked for a vector that is given whole."""
        self.rejected, self.replaced, self.exhausted = 0, False, False

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:
            return {}  # enqueued: its vector is given
        history = self.history
        history.read(study)
        done = history.feasible
        drawn = self._draw(study, trial)
        if self._screen is not None and self._screening is not None and len(done) >= max(self._screening.startup, 2):
            every = self._screening.explore
            if not every or history.tried % every:
                chosen = self._screen.choose(
                    drawn,
                    [(t.params, np.array(t.values), self.costs(t.params)) for t in done],
                    [(t.params, self.costs(t.params)) for t in history.running],
                    self._fitting,
                )
                if chosen is not None:
                    return chosen
        return self._unseen(drawn)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)
        if "fixed_params" in trial.system_attrs and isinstance(self._inner, optuna.samplers.BaseGASampler):
            self._inner.get_trial_generation(study, trial)  # else it never breeds from a vector that is given whole

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()
        self._rng.bit_generator.state = np.random.default_rng().bit_generator.state

    def costs(self, params: Params) -> Mapping[str, float]:
        """Return the static costs of a vector, read once; none where they cannot be read."""
        if self._problem.static_costs is None:
            return {}
        key = self._problem.canonical(params)
        if key not in self._static:
            if len(self._static) >= _MOST_LISTED:
                self._static.clear()
            try:
                self._static[key] = dict(self._problem.static_costs(params))
            except Exception as error:  # a user's function: a vector it cannot take is one that cannot be used
                self._broken[key] = f"{type(error).__name__}: {error}"
                self._static[key] = {}
        return self._static[key]

    def trouble(self, params: Params) -> str | None:
        """Return why the vector cannot be used: its static costs cannot be read, or one is not a finite number."""
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
        """Return the draw if it fits or the study should hear that it is infeasible, else what fits near it."""
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
            if not self.history.feasible:  # nothing ever fitted, nor do the corners and the end of a descent
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
        """Yield where something that fits is likely: around the draw and the front, and where limits are met."""
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
        """Turn one knob after another to where the limits are broken least, until none is."""
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


class Proposer:
    """Asks a study for trials that are worth training.

    Args:
        study: its sampler becomes a `Screened` around the present one.
        problem: what is searched.
        seed: of mutations and random candidates.
        screening: as in `Screened`.
        wrap: whether the sampler is wrapped at all; one that goes through a fixed sequence should not be.
        bound: shuts out vectors that finished trials leave no hope.
        patience: as in `Screened`.
    """

    def __init__(
        self,
        study: Study,
        problem: Problem,
        seed: int,
        screening: Screening | None = None,
        *,
        wrap: bool = True,
        bound: Bound | None = None,
        patience: float = math.inf,
    ) -> None:
        self._study, self._problem, self._bound, self._wrap = study, problem, bound, wrap
        self._distributions = distributions(problem.space)
        self._only_vector = all(distribution.single() for distribution in self._distributions.values())
        self._sampler = Screened(study.sampler, problem, seed, screening, patience)
        if wrap:
            study.sampler = self._sampler

    def ask(self) -> Proposal | None:
        """Return the next trial, running, or None where nothing is left to try.

        Draws that break a limit on a static cost are told to the study as pruned, with the value of every constraint,
        and the study is asked again. Only a vector someone enqueued, or a sampler that is not wrapped, can lead to a
        model that is known.

        Raises:
            SweepError: the static costs cannot be read for any vector.
        """
        for _ in range(MOST_TURNED_DOWN):
            sampler = self._study.sampler
            if isinstance(sampler, optuna.samplers.GridSampler) and sampler.is_exhausted(self._study):
                return None
            try:
                asked = self._ask_once()
            except UpdateFinishedTrialError:  # another driver drew the same enqueued trial, and was faster
                continue
            if asked is not None:
                return asked
            if self._sampler.exhausted:
                return None
        return None

    def costs(self, params: Params) -> Mapping[str, float]:
        """Return the static costs of a vector."""
        return self._sampler.costs(params)

    def _ask_once(self) -> Proposal | None:
        """Return the next draw, or None where it is turned down."""
        sampler = self._sampler
        sampler.begin()
        trial = self._study.ask(self._distributions)
        if self._wrap and self._only_vector:  # then Optuna asks no sampler
            frozen = self._study.get_trials(deepcopy=False)[trial.number]
            sampler.history.read(self._study)
            known = sampler.history.has_ended(self._problem.canonical(trial.params))
            sampler.exhausted = known and "fixed_params" not in frozen.system_attrs
        how = {"rejected": sampler.rejected, "replaced": sampler.replaced}
        trouble = sampler.trouble(trial.params)
        if sampler.exhausted or trouble is not None:
            why = "exhausted" if sampler.exhausted else f"static costs: {trouble}"
            trial.set_user_attr(PROPOSAL, {**how, "screened": why})
            tell(self._study, trial, state=TrialState.FAIL)
            if sampler.exhausted and trouble is not None:
                raise SweepError(f"no vector was found whose static costs can be read: {trouble}")
            return None
        static = sampler.costs(trial.params)
        reason = self._hopeless(trial, static) if self._problem.is_feasible(static) else "infeasible"
        if reason is None:
            if any(how.values()):  # an attribute is a write to the disk
                trial.set_user_attr(PROPOSAL, how)
            return Proposal(trial, static)
        for name, value in self._problem.violations(static).items():
            trial.set_constraint(name, value)
        trial.set_user_attr(PROPOSAL, {**how, "screened": reason})
        tell(self._study, trial, state=TrialState.PRUNED)
        return None

    def _hopeless(self, trial: optuna.Trial, static: Mapping[str, float]) -> str | None:
        if self._bound is None:
            return None
        self._sampler.history.read(self._study)
        done = [(t.params, t.values) for t in self._sampler.history.complete]
        why = self._bound.hopeless(trial.params, static, done)
        return None if why is None else f"bound: {why}"


def tell(study: Study, trial: optuna.Trial | int, **how: Any) -> None:
    """Tell a study of a trial, whatever its sampler then asks for."""
    try:
        study.tell(trial, **how)
    except RuntimeError as error:
        # A sampler that has nothing left asks `optimize` to stop; here there is none, and the trial is told already.
        if "Study.stop" not in str(error):
            raise


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield the vectors with every knob at one of its ends or neutral, the most extreme first: where limits are met."""
    ends = [_ends(domain) for domain in space.values()]
    if math.prod(map(len, ends)) <= _MOST_CORNERS:
        for values in itertools.product(*ends):
            yield dict(zip(space, values, strict=True))


def _ends(domain: Domain) -> list[Any]:
    values = [domain.values[-1], domain.values[0]] if isinstance(domain, Choice) else [domain.high, domain.low]
    far = [value for value in values if value != domain.neutral]
    return [*far, domain.neutral] if is_searched(domain, domain.neutral) else far or values[:1]


def _size(space: Space) -> float:
    """Return how many vectors there are; infinite where a knob is continuous."""
    return float(np.prod([_count(domain) for domain in space.values()]))


def _count(domain: Domain) -> float:
    match domain:
        case Choice(values):
            return len(values)
        case FloatRange(low, high, _, None):
            return 1.0 if low == high else np.inf
        case FloatRange(low, high, _, step) | IntRange(low, high, _, step):
            return (high - low) // (step or 1) + 1
