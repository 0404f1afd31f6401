"""The widest cut a network allows: which groups of channels can go together, found by trying."""

from collections.abc import Callable, Sequence

from kmr.instantiations.pruning.graph import ChannelGroup, Graph
from kmr.instantiations.pruning.proof import CutFailed
from kmr.instantiations.pruning.surgery import Cut

_MOST_CUTS = 48
"""Trial cuts in the search for groups that can go; past it, groups not yet tried stay whole."""

Attempt = Callable[[Sequence[ChannelGroup], Graph | None], Cut]
"""Cut these groups, in this graph or one made anew."""


def widest_cut(groups: Sequence[ChannelGroup], graph: Graph, attempt: Attempt) -> tuple[Cut, dict[str, str]]:
    """Return the cut through as many of the groups as can be cut together, and for the others, by root, why not.

    All are tried at once. Where that fails, those that are simple are, and then the others, halved until what cannot
    go stands alone.

    Raises:
        CutFailed: no group can go; with the reason.
    """
    tried = 0
    reasons: dict[str, str] = {}
    last = CutFailed("nothing to cut")

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
