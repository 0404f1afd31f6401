"""Search for the widest cut: which groups of channels can be removed together, by trial cuts."""

from collections.abc import Callable, Sequence

from kmr.instantiations.pruning.graph import ChannelGroup, Graph
from kmr.instantiations.pruning.proof import CutFailed
from kmr.instantiations.pruning.surgery import Cut

_MOST_CUTS = 48
"""The limit on trial cuts; groups not tried by then stay whole."""

Attempt = Callable[[Sequence[ChannelGroup], Graph | None], Cut]
"""A function that cuts these groups, in this graph or, if None, in a new one."""


def widest_cut(groups: Sequence[ChannelGroup], graph: Graph, attempt: Attempt) -> tuple[Cut, dict[str, str]]:
    """Return the cut of as many groups as can be removed together, and the reasons for the others, by root.

    First all groups are tried at once. If that fails, the simple ones are tried, then the others, by bisection until
    each failing group is isolated.

    Raises:
        CutFailed: no group can be removed; the message has the reason.
    """
    tried = 0
    reasons: dict[str, str] = {}
    last = CutFailed("there is no group to cut")

    def succeeds(chosen: Sequence[ChannelGroup], prepared: Graph | None = None) -> Cut | None:
        nonlocal tried, last
        tried += 1
        try:
            return attempt(chosen, prepared)
        except CutFailed as failed:
            last = failed
            return None

    best = succeeds(groups, graph)
    if best is not None:
        return best, {}
    first = last
    simple = [group for group in groups if group.simple]
    kept: list[ChannelGroup] = []
    pending = [simple, [group for group in groups if not group.simple]] if simple else _halves(groups)
    while pending:
        part = pending.pop(0)
        if not part:
            continue
        if tried >= _MOST_CUTS:
            reasons.update({group.root: "too many combinations to try" for group in part})
            continue
        wider = succeeds([*kept, *part])
        if wider is not None:
            kept, best = [*kept, *part], wider
        elif len(part) == 1:
            reasons[part[0].root] = str(last)
        else:
            pending = [*_halves(part), *pending]
    if best is None:
        raise first
    return best, reasons


def _halves(groups: Sequence[ChannelGroup]) -> list[list[ChannelGroup]]:
    middle = (len(groups) + 1) // 2
    return [list(groups[:middle]), list(groups[middle:])]
