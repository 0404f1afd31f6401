"""Anchors: what every search tries first, so that its front is never behind the plain uses of each technique."""

from collections.abc import Iterator

from kmr.core import Choice, Value
from kmr.policies.ladder import rungs
from sweeps.space import Space


def anchors(space: Space, strengths: int) -> Iterator[dict[str, Value]]:
    """Yield vectors that turn one knob alone, to a few values from mild to strong, the others neutral.

    A space in which the other knobs cannot stay neutral has none. The base model itself is measured before any trial.
    """
    if strengths < 1 or not all(_can_rest(space, name) for name in space):
        return
    rest = {name: domain.neutral for name, domain in space.items()}
    climbs = {name: rungs(domain, strengths) for name, domain in space.items()}
    for level in range(strengths):
        for name, climb in climbs.items():
            if level < len(climb):
                yield {**rest, name: climb[level]}


def _can_rest(space: Space, name: str) -> bool:
    domain = space[name]
    if isinstance(domain, Choice):
        return domain.neutral in domain.values
    return domain.low <= domain.neutral <= domain.high
