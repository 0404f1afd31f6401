"""Groups of techniques, each with one colour in all figures of a study."""

from __future__ import annotations

from collections import Counter

import numpy as np

from analysis.contribution import parts
from analysis.front import front_of
from analysis.plots.style import MUTED, Mark, marks
from analysis.table import StudyTable

OTHER = "other combinations"
_MOST = 12


def group_techniques(table: StudyTable) -> tuple[list[int], dict[str, Mark]]:
    """Return the number of each row's group of techniques, and a mark for each group.

    A group is a composition in its order. If there are more than twelve, order is ignored. If there are still too many,
    the compositions on the front and the most frequent ones have groups of their own and the rest share one. The base
    model and rows without a technique have no group (-1).
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
