"""Contribution of each technique to the front: the hypervolume of the study with and without it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from analysis.front import front_of
from analysis.pareto.dominance import BoolArray
from analysis.pareto.hypervolume import box, hypervolume
from analysis.table import StudyTable


class Contribution(NamedTuple):
    """Hypervolumes of the models without a technique and of the models that use no other.

    `lost` is the hypervolume lost without the models that use it. `members` counts the front members that use it.
    Hypervolumes are shares of the box to the ideal where the study states one.
    """

    technique: str
    without: float
    lost: float
    alone: float
    members: int


@lru_cache(maxsize=4096)
def parts(technique: object) -> tuple[str, ...]:
    """Split a composition such as `structured + quantize` into its techniques, in order."""
    if not isinstance(technique, str) or technique == "baseline":
        return ()
    return tuple(dict.fromkeys(part.strip() for part in technique.split(" + ") if part.strip()))


def contributions(table: StudyTable) -> tuple[Contribution, ...]:
    """Measure every technique, the largest contribution first; empty without a reference point or a technique."""
    reference, ideal = table.corner("reference"), table.corner("ideal")
    if not np.isfinite(reference).all():
        return ()
    share = box(reference, ideal, table.directions) if np.isfinite(ideal).all() else 1.0
    used = [frozenset(parts(technique)) for technique in table.frame["technique"]]
    complete = table.complete.to_numpy(dtype=np.bool_)
    values, front = table.values(table.objectives), front_of(table)

    def volume(rows: BoolArray) -> float:
        return hypervolume(values[rows & complete], reference, table.directions) / share

    names = sorted(frozenset().union(*used)) if used else []
    whole = volume(np.ones(len(used), dtype=np.bool_))
    found = []
    for name in names:
        has = np.array([name in techniques for techniques in used])
        only = np.array([techniques <= {name} for techniques in used])
        without = volume(~has)
        found.append(Contribution(name, without, whole - without, volume(only), int((has & front).sum())))
    return tuple(sorted(found, key=lambda entry: -entry.lost))
