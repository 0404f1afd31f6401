"""Which sampler draws, by the space, and what is tried before it does."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import optuna

from kmr.core import FloatRange, Value
from kmr.policies.ladder import rungs
from sweeps.search.problem import Problem
from sweeps.search.proposals.mutation import random_vector
from sweeps.space import Space, is_searched

logger = logging.getLogger(__name__)

MANY_TRIALS = 1000
"""From here on TPE, whose cost grows with every trial, gives way to evolution."""
FEW_TRIALS, FEW_KNOBS = 150, 8
"""Up to here a Gaussian process is affordable, some tenths of a second for each proposal."""
FEW_TOGETHER = 4
"""Knobs up to which every two are tried together at first."""


_REASONS: "WeakKeyDictionary[optuna.samplers.BaseSampler, str]" = WeakKeyDictionary()


class Pick(NamedTuple):
    """A sampler, and the reason it was taken."""

    sampler: optuna.samplers.BaseSampler
    reason: str


def pick_sampler(space: Space, trials: int, seed: int, conditional: bool = False, separable: bool = False) -> Pick:
    """Choose a sampler by the space and log the choice.

    Args:
        space: the domain of each knob.
        trials: how many will be trained in all.
        seed: of the sampler.
        conditional: whether some knobs are drawn only where others have certain values.
        separable: whether the knobs are known to act each for itself; only a space without choices and steps asks.
    """
    if conditional:
        sampler: optuna.samplers.BaseSampler = _tpe(multivariate=True, group=True, seed=seed)
        pick = Pick(sampler, "grouped multivariate TPE: some knobs depend on others")
    elif trials > MANY_TRIALS:
        pick = Pick(optuna.samplers.NSGAIISampler(seed=seed), f"NSGA-II: more than {MANY_TRIALS} trials")
    elif not _is_continuous(space):
        pick = Pick(_tpe(multivariate=True, seed=seed), "multivariate TPE: the space is discrete or mixed")
    elif not separable and trials <= FEW_TRIALS and len(space) <= FEW_KNOBS:
        sampler = optuna.samplers.GPSampler(seed=seed)
        pick = Pick(sampler, "Gaussian process: the space is continuous, flat and small")
    else:
        pick = Pick(_tpe(seed=seed), "independent TPE: the space is continuous")
    logger.info("sampler: %s", pick.reason)
    _REASONS[pick.sampler] = pick.reason
    return pick


def by_space(
    space: Space, trials: int, seed: int, conditional: bool = False, separable: bool = False
) -> optuna.samplers.BaseSampler:
    """Return the sampler that suits the space, as `pick_sampler` does: what `conf/sampler/auto.yaml` names."""
    return pick_sampler(space, trials, seed, conditional, separable).sampler


def describe_sampler(sampler: optuna.samplers.BaseSampler) -> str:
    """Name a sampler for the user."""
    inner = getattr(sampler, "inner", sampler)
    reason = _REASONS.get(inner)
    return f"{type(inner).__name__} ({reason})" if reason else type(inner).__name__


def is_fixed(sampler: optuna.samplers.BaseSampler) -> bool:
    """Tell whether a sampler goes through a fixed sequence, in which nothing else has a place."""
    return isinstance(sampler, optuna.samplers.GridSampler | optuna.samplers.QMCSampler)


def seed_after(seed: int, trials: int) -> int:
    """Return the seed of a sampler that takes a study up after so many trials, so that it does not repeat its start."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{trials}".encode()).digest()[:4])


def screening_pays(problem: Problem) -> bool:
    """Tell whether candidates are worth screening, and log the choice.

    In `benchmarks/search_quality.py` and on the tables it was developed on, screening wins where some knob is discrete
    and some objective is known before training; elsewhere it has not been shown to.
    """
    known = static_names(problem) & set(problem.objectives)
    pays = not _is_continuous(problem.space) and bool(known)
    found = f"{', '.join(sorted(known)) or 'no objective'} known before training"
    kind = "continuous" if _is_continuous(problem.space) else "discrete or mixed"
    logger.info("screening %s: %s, the space is %s", "on" if pays else "off", found, kind)
    return pays


def static_names(problem: Problem) -> set[str]:
    """Return which meters are known before training, from one vector of the space."""
    if problem.static_costs is None:
        return set()
    try:
        return set(problem.static_costs(random_vector(problem.space, np.random.default_rng(0))))
    except Exception:  # a user's function; the vector may be one it cannot take
        return set()


def _is_continuous(space: Space) -> bool:
    return all(isinstance(domain, FloatRange) and domain.step is None for domain in space.values())


def _tpe(**settings: bool | int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(**settings)  # type: ignore[arg-type]


def anchors(
    space: Space,
    most: int | None = None,
    levels: int = 3,
    *,
    together: bool = False,
    cost: Callable[[Mapping[str, Value]], float] | None = None,
) -> list[dict[str, Value]]:
    """Return what is tried first: the vector that changes nothing, and each knob alone at a few strengths.

    They give the front its ends, the report its comparison with every technique alone, and the sampler a fair start.

    Args:
        space: the domain of each knob; without anchors where some knob's neutral value is not in its own.
        most: fewer strengths are taken where there would be more; at least the neutral vector stays.
        levels: strengths of each knob, the strongest included.
        together: whether the middle strengths come first, and then every two knobs together at those, where there are
            at most `FEW_TOGETHER` knobs: where techniques compose well, that is most of the front.
        cost: of a vector, where it is known before training; of the pairs, the cheapest come first.
    """
    if not all(is_searched(domain, domain.neutral) for domain in space.values()):
        return []
    neutral: dict[str, Value] = {name: domain.neutral for name, domain in space.items()}
    for count in range(levels, 0, -1):
        strengths = {
            name: [value for value in rungs(domain, count) if is_searched(domain, value)]
            for name, domain in space.items()
        }
        turned = [{name: value} for name, values in strengths.items() for value in values]
        if together:
            middle = {name: values[(len(values) - 1) // 2] for name, values in strengths.items() if values}
            first = [{name: value} for name, value in middle.items()]
            pairs = [dict(pair) for pair in combinations(middle.items(), 2)] if len(space) <= FEW_TOGETHER else []
            if cost is not None:
                costs = [cost({**neutral, **pair}) for pair in pairs]
                pairs = [pairs[i] for i in sorted(range(len(pairs)), key=costs.__getitem__)]
            turned = [*first, *pairs, *(one for one in turned if one not in first)]
        if most is None or len(turned) < most:
            return [neutral, *({**neutral, **one} for one in turned)]
    return [neutral]
