"""Transitive closure of channel dependencies: everything that must be removed with a layer's channels.

This is the closure that Torch-Pruning computes, with two differences. Each index is followed from a layer once, however
many paths lead there; following every path takes exponential time in networks that split and join channels, as for
rotary positions. Channels that share a position in some layer are linked.
"""

from dataclasses import dataclass
from typing import Any

_RUNAWAY = 8
"""An index above this many times the widest layer is invalid: the library's index mapping of views can run away."""


@dataclass(frozen=True, eq=False)
class GroupMember:
    """A layer or operation in a closure: {its own channel number: the starting channel that leads there}."""

    dependency: Any
    roots: dict[int, int | None]

    @property
    def node(self) -> Any:
        return self.dependency.target

    @property
    def handler(self) -> Any:
        return self.dependency.handler


@dataclass(frozen=True, eq=False)
class Closure:
    """Everything that must be removed with the channels of a layer.

    Args:
        members: layers and operations; the closure starts at the first.
        linked: starting channels grouped by which can only be removed together; None if each can be removed alone.
        sound: whether all channel numbers in the graph exist.
    """

    members: list[GroupMember]
    linked: list[list[int]] | None
    sound: bool


def follow(graph: Any, root: Any, handler: Any, indices: list[int]) -> Closure:
    """Return everything that must be removed with these channels of a layer.

    Args:
        graph: Torch-Pruning's dependency graph.
        root: the layer, one of the graph's modules.
        handler: the graph's function that removes its channels.
        indices: the channels.
    """
    from torch_pruning._helpers import _HybridIndex
    from torch_pruning.dependency import Dependency

    start = graph.module2node[root]
    found: dict[tuple[Any, Any], GroupMember] = {}
    links = _Links(indices)
    limit = _RUNAWAY * (_widest(graph) + 1)
    beginning: dict[int, int | None] = {index: index for index in indices}
    stack = [(Dependency(handler, handler, source=start, target=start), beginning)]
    sound = True
    while stack:
        dependency, arriving = stack.pop()
        member = found.setdefault((dependency.target, dependency.handler), GroupMember(dependency, {}))
        fresh: dict[int, int | None] = {}
        if not member.roots:
            fresh = arriving
        elif member.roots != arriving:
            for index, source in arriving.items():
                if index not in member.roots:
                    fresh[index] = source
                else:
                    links.join(member.roots[index], source)
        if not fresh:
            continue
        member.roots.update(fresh)
        width = _width(graph, dependency.target, graph.is_out_channel_pruning_fn(dependency.handler))
        if min(fresh) < 0 or max(fresh) >= (limit if width is None else width):
            sound = False
            continue
        for onward in dependency.target.dependencies:
            if onward.is_triggered_by(dependency.handler):
                mappings = [mapping for mapping in onward.index_mapping if mapping is not None]
                mapped = fresh
                if mappings:
                    pairs = [_HybridIndex(idx=index, root_idx=source) for index, source in fresh.items()]
                    for mapping in mappings:
                        pairs = mapping(pairs)
                    mapped = {}
                    for pair in pairs:
                        if int(pair.idx) in mapped:
                            links.join(mapped[int(pair.idx)], pair.root_idx)
                        else:
                            mapped[int(pair.idx)] = pair.root_idx
                if mapped:
                    stack.append((onward, mapped))
    return Closure(list(found.values()), links.classes(), sound)


def _widest(graph: Any) -> int:
    return max(_width(graph, node, makes) or 0 for node in graph.module2node.values() for makes in (True, False))


def _width(graph: Any, node: Any, makes: bool) -> int | None:
    width = (graph.get_out_channels if makes else graph.get_in_channels)(node)
    return None if width is None else int(width)


class _Links:
    """A disjoint-set union of the channels that can only be removed together."""

    def __init__(self, indices: list[int]) -> None:
        self._parent = {index: index for index in indices}

    def join(self, one: int | None, other: int | None) -> None:
        if one is not None and other is not None:
            first, second = sorted((self._find(one), self._find(other)))
            self._parent[second] = first

    def classes(self) -> list[list[int]] | None:
        together: dict[int, list[int]] = {}
        for index in self._parent:
            together.setdefault(self._find(index), []).append(index)
        return list(together.values()) if len(together) < len(self._parent) else None

    def _find(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index
