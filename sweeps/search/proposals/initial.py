"""Initial vectors of a search, evaluated before the first proposal."""

from collections.abc import Callable, Mapping
from itertools import combinations

from kmr.core import Choice, Domain, FloatRange, IntRange, Value
from kmr.core.domain import rungs
from sweeps.search.space import Space, is_searched

FEW_TOGETHER = 4
"""Most techniques of which all pairs are tried at the start."""
MOST_UNIFORM = 8
"""Most values of a choice for several layers that are tried for all of them together."""


def anchors(
    space: Space,
    most: int | None = None,
    levels: int = 3,
    *,
    together: bool = False,
    cost: Callable[[Mapping[str, Value]], float] | None = None,
) -> list[dict[str, Value]]:
    """Return the first vectors to try: the neutral vector, and each technique alone at a few strengths.

    They give the front its ends, the report a comparison with every technique alone, and the sampler a good start. The
    knobs of one technique for several layers (`quantize.bits@conv1`, `quantize.bits@conv2`) are turned together: a
    search over layers begins with the uniform vectors, so that it is never worse than these.

    Args:
        space: the domain of each knob; a knob whose neutral value is outside its domain stays at the nearest value.
        most: most vectors; strengths are dropped until they fit, and the first vector always stays.
        levels: strengths of each technique, the strongest included; a choice for several layers has up to
            `MOST_UNIFORM`.
        together: whether the middle strengths come first, then all pairs of techniques at those strengths if there are
            at most `FEW_TOGETHER` of them; if techniques compose well, the pairs form most of the front.
        cost: function from a vector to its cost, if known before training; the cheapest pairs come first.
    """
    neutral = {name: _nearest_to_neutral(domain) for name, domain in space.items()}
    techniques: dict[tuple[str, Domain], list[str]] = {}
    for name, domain in space.items():
        techniques.setdefault((name.partition("@")[0], domain), []).append(name)
    for count in range(levels, 0, -1):
        strengths = []
        for (_, domain), names in techniques.items():
            values = _strengths(domain, count, len(names))
            strengths.append([dict.fromkeys(names, value) for value in values if value != neutral[names[0]]])
        turned = [one for each in strengths for one in each]
        if together:
            first = [each[(len(each) - 1) // 2] for each in strengths if each]
            pairs = [one | other for one, other in combinations(first, 2)] if len(first) <= FEW_TOGETHER else []
            if cost is not None:
                costs = [cost({**neutral, **pair}) for pair in pairs]
                pairs = [pairs[i] for i in sorted(range(len(pairs)), key=costs.__getitem__)]
            turned = [*first, *pairs, *(one for one in turned if one not in first)]
        if most is None or len(turned) < most:
            return [neutral, *({**neutral, **one} for one in turned)]
    return [neutral]


def _strengths(domain: Domain, levels: int, knobs: int) -> list[Value]:
    if knobs > 1 and isinstance(domain, Choice):
        levels = MOST_UNIFORM * levels // 3
    return [value for value in rungs(domain, max(levels, 1)) if is_searched(domain, value)]


def _nearest_to_neutral(domain: Domain) -> Value:
    if is_searched(domain, domain.neutral):
        return domain.neutral
    match domain:
        case Choice(values):
            return values[0]
        case FloatRange(low, high) | IntRange(low, high):
            return low if abs(low - domain.neutral) <= abs(high - domain.neutral) else high
