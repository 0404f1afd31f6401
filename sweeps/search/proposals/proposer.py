"""Proposing: what to train next, once duplicates and what cannot be used are taken out.

`Proposer` asks for trials with a `Screened` sampler, which never returns a vector that leads to a model already
trained, gives up on vectors that break a limit on a cost known before training after a few asks, and, with
`Screening`, picks the candidate with the largest expected gain of hypervolume. It tells the study of those that are
infeasible, with the values of their constraints, so that the inner sampler learns from them.
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
"""Vectors in a row that end before training before nothing is thought to be left; a fixed sequence may never fit."""


class Proposal(NamedTuple):
    """A trial to train, and the static costs of its vector."""

    trial: optuna.Trial
    static: Mapping[str, float]


class Proposer:
    """Asks a study for trials that are worth training.

    Args:
        study: its sampler becomes a `Screened` around the present one.
        problem: what is searched.
        seed: of mutations and random candidates.
        screening: as in `Screened`.
        wrap: whether the sampler is wrapped at all; one that goes through a fixed sequence should not be.
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
        """Return the next trial, running, or None where nothing is left to try.

        Draws that break a limit on a static cost are told to the study as infeasible, with the value of every
        constraint, and the study is asked again. Only a vector someone enqueued, or a sampler that is not wrapped, can
        lead to a model that is known.

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
        """Return the next draw, or None where it is screened."""
        sampler = self._sampler
        sampler.begin()
        trial = self._study.ask(self._distributions)
        if self._wrap and self._only_vector:  # then Optuna asks no sampler
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
                raise SweepError(f"no vector was found whose static costs can be read: {trouble}")
            return None
        static = sampler.costs(trial.params)
        broken = [name for name, value in self._problem.violations(static).items() if value > 0]
        if not broken:
            keep_proposal(trial, how)
            return Proposal(trial, static)
        untrained = Untrained(TrialState.INFEASIBLE, f"it breaks the limit on {', '.join(broken)}")
        screen(self._study, trial, untrained, how, self._problem.violations(static))
        return None
