"""Initial vectors: what a search tries before it proposes."""

from collections.abc import Callable, Mapping
from itertools import combinations

from kmr.core import Value
from kmr.core.domain import rungs
from sweeps.search.space import Space, is_searched

FEW_TOGETHER = 4
"""Knobs up to which every two are tried together at first."""


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
