"""Which techniques share a colour: the same in every figure of a study."""

from __future__ import annotations

from collections import Counter

import numpy as np

from analysis.contribution import parts
from analysis.front import front_of
from analysis.plots.style import MUTED, Mark, marks
from analysis.table import StudyTable

OTHER = "other combinations"
_MOST = 12


def grouped(table: StudyTable) -> tuple[list[int], dict[str, Mark]]:
    """Give every row the number of its group of techniques, and every group a mark.

    A group is a composition in its order; where there are more than twelve, one in any order; and where these are still
    too many, those of the front and the most frequent have a group of their own, and the rest share one. The base
    model, and rows without a technique, are in none (-1).
    """
    technique = [" + ".join(parts(name)) for name in table.frame["technique"]]
    if len(set(technique) - {""}) > _MOST:
        technique = [" + ".join(sorted(parts(name))) for name in table.frame["technique"]]
    counts = Counter(name for name in technique if name)
    on_front = {technique[index] for index in np.flatnonzero(front_of(table))}
    ranked = sorted(counts, key=lambda name: (name not in on_front, -counts[name], name))
    shown = ranked if len(ranked) <= _MOST else ranked[: _MOST - 1]
    order = marks(shown)
    if len(shown) < len(ranked):
        order[OTHER] = Mark(MUTED, "hexagon")
    places = {name: index for index, name in enumerate(order)}
    last = len(order) - 1
    return [places.get(name, last) if name else -1 for name in technique], order
