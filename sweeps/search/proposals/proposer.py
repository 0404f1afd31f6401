"""Proposer of the next trial to train, without duplicates and infeasible vectors.

`Proposer` asks the study for trials through a `Screened` sampler. That sampler never proposes a model already trained,
replaces proposals after a few that break a limit on a static cost, and, with `Screening`, chooses the candidate with
the largest expected hypervolume improvement. Infeasible vectors are closed with their constraint values, so that the
inner sampler learns from them.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study

from sweeps.errors import SweepError
from sweeps.search.problem import Params, Problem
from sweeps.search.proposals.acquisition import Screening
from sweeps.search.proposals.sampler import Screened
from sweeps.search.space import distributions
from sweeps.search.study.proposal import HowProposed, Untrained, keep_proposal
from sweeps.search.study.record import screen
from sweeps.search.study.trial_state import TrialState

MOST_SCREENED = 1000
"""Vectors closed in a row before training after which the search counts as exhausted."""


class Proposal(NamedTuple):
    """Trial to train, and the static costs of its vector."""

    trial: optuna.Trial
    static: Mapping[str, float]


class Proposer:
    """Source of a study's trials that need training.

    Args:
        study: the study, whose sampler is wrapped in a `Screened`.
        problem: the search problem.
        seed: seed of mutations and random candidates.
        screening: as in `Screened`.
        wrap: whether to wrap the sampler; False for a sampler with a fixed sequence.
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
        patience: float = math.inf,
    ) -> None:
        self._study, self._problem, self._wrap = study, problem, wrap
        self._distributions = distributions(problem.space)
        self._only_vector = all(distribution.single() for distribution in self._distributions.values())
        self._sampler = Screened(study.sampler, problem, seed, screening, patience)
        if wrap:
            study.sampler = self._sampler

    def ask(self) -> Proposal | None:
        """Return the next running trial, or None if nothing is left to try.

        A proposal that breaks a limit on a static cost is closed as infeasible, with all constraint values, and the
        study is asked for another. Only an enqueued vector or an unwrapped sampler can lead to a known model.

        Raises:
            SweepError: the static costs cannot be read for any vector.
        """
        for _ in range(MOST_SCREENED):
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
        """Return the next proposal, or None if it was closed before training."""
        sampler = self._sampler
        sampler.begin()
        trial = self._study.ask(self._distributions)
        if self._wrap and self._only_vector:  # Optuna does not call the sampler in a space of one vector
            frozen = self._study.get_trials(deepcopy=False)[trial.number]
            sampler.history.read(self._study)
            known = sampler.history.has_ended(self._problem.canonical(trial.params))
            sampler.exhausted = known and "fixed_params" not in frozen.system_attrs
        how = HowProposed(sampler.rejected, sampler.replaced)
        trouble = sampler.trouble(trial.params)
        if sampler.exhausted or trouble is not None:
            why = "nothing is left to try" if sampler.exhausted else f"its static costs cannot be read: {trouble}"
            screen(self._study, trial, Untrained(None if sampler.exhausted else TrialState.INFEASIBLE, why), how)
            if sampler.exhausted and trouble is not None:
                raise SweepError(f"the static costs of no vector could be read: {trouble}; fix static_costs")
            return None
        static = sampler.costs(trial.params)
        broken = [name for name, value in self._problem.violations(static).items() if value > 0]
        if not broken:
            keep_proposal(trial, how)
            return Proposal(trial, static)
        untrained = Untrained(TrialState.INFEASIBLE, f"it breaks the limit on {', '.join(broken)}")
        screen(self._study, trial, untrained, how, self._problem.violations(static))
        return None
