"""Initial vectors of a search, evaluated before the first proposal."""

from collections.abc import Callable, Mapping
from itertools import combinations

from kmr.core import Value
from kmr.core.domain import rungs
from sweeps.search.space import Space, is_searched

FEW_TOGETHER = 4
"""Most knobs for which all pairs are tried at the start."""


def anchors(
    space: Space,
    most: int | None = None,
    levels: int = 3,
    *,
    together: bool = False,
    cost: Callable[[Mapping[str, Value]], float] | None = None,
) -> list[dict[str, Value]]:
    """Return the first vectors to try: the neutral vector, and each knob alone at a few strengths.

    They give the front its ends, the report a comparison with every technique alone, and the sampler a good start.

    Args:
        space: the domain of each knob; there are no anchors if a knob's neutral value is outside its domain.
        most: most vectors; strengths are dropped until they fit, and the neutral vector always stays.
        levels: strengths of each knob, the strongest included.
        together: whether the middle strengths come first, then all pairs of knobs at those strengths if there are at
            most `FEW_TOGETHER` knobs; if techniques compose well, the pairs form most of the front.
        cost: function from a vector to its cost, if known before training; the cheapest pairs come first.
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
