"""Choice of the sampler and of screening, by the space and the number of trials."""

import hashlib
import logging
import warnings
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import optuna

from kmr.core import FloatRange
from sweeps.search.problem import Problem
from sweeps.search.proposals.acquisition import Screening
from sweeps.search.proposals.mutation import random_vector
from sweeps.search.space import Space, is_nominal

logger = logging.getLogger(__name__)

MANY_TRIALS = 1000
"""Number of trials above which NSGA-II replaces TPE, whose cost grows with every trial."""
FEW_TRIALS, FEW_KNOBS = 150, 8
"""Trials and knobs up to which a Gaussian process is affordable, at some tenths of a second per proposal."""


_REASONS: "WeakKeyDictionary[optuna.samplers.BaseSampler, str]" = WeakKeyDictionary()


class ChosenSampler(NamedTuple):
    """Sampler and the reason for its choice."""

    sampler: optuna.samplers.BaseSampler
    reason: str


def pick_sampler(
    space: Space, trials: int, seed: int, conditional: bool = False, separable: bool = False
) -> ChosenSampler:
    """Choose a sampler by the space and log the choice.

    Args:
        space: the domain of each knob.
        trials: total number of trials.
        seed: seed of the sampler.
        conditional: whether some knobs exist only for certain values of others.
        separable: whether the knobs are known not to interact; it matters in a continuous space only.
    """
    if conditional:
        sampler: optuna.samplers.BaseSampler = _tpe(multivariate=True, group=True, seed=seed)
        pick = ChosenSampler(sampler, "grouped multivariate TPE: some knobs depend on others")
    elif trials > MANY_TRIALS:
        pick = ChosenSampler(optuna.samplers.NSGAIISampler(seed=seed), f"NSGA-II: more than {MANY_TRIALS} trials")
    elif not _is_continuous(space):
        pick = ChosenSampler(_tpe(multivariate=True, seed=seed), "multivariate TPE: the space is discrete or mixed")
    elif not separable and trials <= FEW_TRIALS and len(space) <= FEW_KNOBS:
        sampler = optuna.samplers.GPSampler(seed=seed)
        pick = ChosenSampler(sampler, "Gaussian process: the space is continuous, flat and small")
    else:
        pick = ChosenSampler(_tpe(seed=seed), "independent TPE: the space is continuous")
    logger.info("sampler: %s", pick.reason)
    _REASONS[pick.sampler] = pick.reason
    return pick


def by_space(
    space: Space, trials: int, seed: int, conditional: bool = False, separable: bool = False
) -> optuna.samplers.BaseSampler:
    """Return the sampler from `pick_sampler`, for `conf/sampler/auto.yaml`."""
    return pick_sampler(space, trials, seed, conditional, separable).sampler


def describe_sampler(sampler: optuna.samplers.BaseSampler) -> str:
    """Name a sampler for the user."""
    inner = getattr(sampler, "inner", sampler)
    reason = _REASONS.get(inner)
    return f"{type(inner).__name__} ({reason})" if reason else type(inner).__name__


def is_fixed(sampler: optuna.samplers.BaseSampler) -> bool:
    """Tell whether a sampler follows a fixed sequence, so that its proposals must not be replaced."""
    return isinstance(sampler, optuna.samplers.GridSampler | optuna.samplers.QMCSampler)


def seed_after(seed: int, trials: int) -> int:
    """Return the seed for a study resumed after this many trials, so that the sampler does not repeat its start."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{trials}".encode()).digest()[:4])


def screening_pays(problem: Problem) -> bool:
    """Tell whether screening is expected to pay, and log the choice.

    On the tables of `benchmarks/search_quality.py` and on those used in its development, screening wins if some knob is
    discrete, and an objective is known before training, or there is a limit, or some knob has an order. In a continuous
    space, and where only names are chosen and nothing is known, no gain has been shown.
    """
    known = static_names(problem) & set(problem.objectives)
    ordered = any(not is_nominal(domain) for domain in problem.space.values())
    pays = not _is_continuous(problem.space) and bool(known or problem.limits or ordered)
    found = f"{', '.join(sorted(known)) or 'no objective'} known before training"
    kind = "continuous" if _is_continuous(problem.space) else "discrete or mixed"
    logger.info("screening %s: the space is %s, %s", "on" if pays else "off", kind, found)
    return pays


def screening_for(problem: Problem) -> Screening | None:
    """Return the settings of screening where it is expected to pay; costs that are slow to read get a shortlist."""
    if not screening_pays(problem):
        return None
    return Screening(shortlist=None if problem.static_costs is None else 8)


def static_names(problem: Problem) -> set[str]:
    """Return the names of the meters known before training, read from one vector of the space."""
    if problem.static_costs is None:
        return set()
    try:
        return set(problem.static_costs(random_vector(problem.space, np.random.default_rng(0))))
    except Exception:  # a user's function, which may reject this vector
        return set()


def _is_continuous(space: Space) -> bool:
    return all(isinstance(domain, FloatRange) and domain.step is None for domain in space.values())


def _tpe(**settings: bool | int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(**settings)  # type: ignore[arg-type]
