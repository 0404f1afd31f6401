"""Proposals for an experiment: canonical vectors, static costs and the configured sampler."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import optuna

from kmr.core import TransformationSequence, Value
from sweeps.errors import SweepError
from sweeps.experiment.experiment import Experiment
from sweeps.search.problem import Problem
from sweeps.search.proposals.acquisition import Screening
from sweeps.search.proposals.choose_sampler import describe_sampler, is_fixed, screening_for, seed_after
from sweeps.search.proposals.initial import anchors
from sweeps.search.proposals.proposer import Proposer
from sweeps.search.study.point import Point

PATIENCE = 30.0
"""Seconds to search for a vector that is new and feasible before the space counts as exhausted."""


class Asker:
    """The proposer of an experiment's trials.

    Args:
        experiment: the experiment to search.
        study: Optuna's study, with the configured sampler.
        statics: read costs before training.
        canonical: recognise vectors that lead to the same model, so that none is trained twice.

    Raises:
        SweepError: the settings of `screening` are invalid.
    """

    def __init__(
        self, experiment: Experiment, study: optuna.Study, *, statics: bool = True, canonical: bool = True
    ) -> None:
        self._experiment, self._study, self._canonical = experiment, study, canonical
        self._statics = None if experiment.searches_policy else experiment.compression.statics
        self.fixed = is_fixed(study.sampler)
        """Whether the sampler follows a fixed sequence, to which no trials may be added."""
        config = experiment.config
        self.problem = replace(
            problem_of(experiment),
            canonical=self.key,
            static_costs=self._statics.costs if statics and self._statics and self._statics.names else None,
        )
        """The search problem."""
        trials = len(study.get_trials(deepcopy=False))
        screening = _screening(experiment, self.problem, self.fixed)
        parts = [f"sampler {describe_sampler(study.sampler)}", "screening " + ("on" if screening else "off")]
        parts += [f"known before training: {', '.join(self._statics.names) or 'nothing'}"] if self._statics else []
        self.description = "; ".join(parts)
        """The sampler, screening and static costs in words."""
        self.proposer = Proposer(
            study,
            self.problem,
            seed_after(config.seed, trials),
            screening,
            wrap=not self.fixed and not experiment.searches_policy,
            patience=PATIENCE,
        )
        """The proposer that asks the study for trials."""

    @property
    def exhausted(self) -> str:
        """The message for an exhausted search space."""
        least = {name: self._statics.least(name) for name in self._experiment.config.limits} if self._statics else {}
        limits = self._experiment.config.limits
        known = [f"{name} {value:g} (limit {limits[name]:g})" for name, value in least.items() if value is not None]
        seen = f"; the smallest found: {', '.join(known)}" if known else ""
        return f"found no new vector{' within the limits' if limits else ''}{seen}"

    def enqueue_anchors(self) -> None:
        """Enqueue the first trials: each technique alone, at a few strengths, and every pair of techniques."""
        levels = self._experiment.config.anchors
        if levels and not self.fixed:
            space = self._experiment.space
            for vector in anchors(space, levels=levels, together=True, cost=self._cost):
                if any(value != space[name].neutral for name, value in vector.items()):  # the base model is measured
                    self._study.enqueue_trial(vector, skip_if_exists=True)

    def _cost(self, params: Mapping[str, Value]) -> float:
        """Return a vector's static costs as shares of the base model's, multiplied."""
        base, known = self._experiment.base.costs, self.proposer.costs(params)
        objectives = [meter.name for meter in self._experiment.objectives]
        return math.prod(known[name] / (base[name].value or 1.0) for name in objectives if name in known)

    def key(self, params: Mapping[str, Value]) -> Hashable:
        """Return a key that is equal for vectors that lead to the same model."""
        if not self._canonical:
            return object()
        return tuple(sorted(params.items())) if self._statics is None else self._statics.key(params)

    def key_of(self, sequence: TransformationSequence) -> Hashable:
        """Return a key that is equal for sequences that lead to the same model."""
        if not self._canonical:
            return object()
        return str(sequence) if self._statics is None else self._statics.key_of(sequence)

    def remember(self, point: Point) -> None:
        """Reuse the key of a point that an earlier run measured."""
        if self._statics is not None and point.key:
            self._statics.remember(point.moves, point.key)


def problem_of(experiment: Experiment) -> Problem:
    """Return an experiment's search problem, without static costs or keys."""
    meters = (*experiment.instantiation.costs, *experiment.instantiation.qualities)
    return Problem(
        experiment.space,
        {meter.name: meter.direction for meter in experiment.objectives},
        dict(experiment.config.limits),
        directions={meter.name: meter.direction for meter in meters},
    )


def _screening(experiment: Experiment, problem: Problem, fixed: bool) -> Screening | None:
    given: Any = experiment.plain.get("screening")
    if given is False or given is None or fixed or experiment.searches_policy:
        return None
    if given is True:
        return screening_for(problem)
    try:
        return Screening(**{"shortlist": 8, **given})
    except TypeError as error:
        raise SweepError(f"screening: {error}") from error
