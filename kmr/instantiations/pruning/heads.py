"""Attention heads: their channels, and the attributes to update when heads are removed.

A head is a run of adjacent channels of query, key and value, whose length the code decides. Most code stores the number
of heads, and often their total width, in attributes, which can be updated. The proof of the cut (`proof`) also checks
this update: without its channels, a head contributes nothing.
"""

from typing import Any

from torch import nn

from kmr.instantiations.pruning.closure import Closure, GroupMember

_COUNTS = ("num_heads", "num_attention_heads", "n_head", "n_heads", "heads", "nhead")
_WIDTHS = ("all_head_size", "inner_dim", "split_size", "embed_dim", "hidden_size")
_MIXING = ("bmm", "softmax", "scaleddotproduct", "scaled_dot_product")


def holder_of(model: nn.Module, paths: tuple[str, ...], width: int) -> tuple[str, int] | None:
    """Return the path of the module that contains all these layers and counts heads, and their number; else None."""
    found: set[tuple[str, int] | None] = set()
    for path in paths:
        found.add(_nearest(model, path, width))
    return found.pop() if len(found) == 1 else None


def mixes_tokens(closure: Closure) -> bool:
    """Tell whether attention lies between the layers of a group."""
    named = (str(getattr(member.node.module, "_grad_fn", "")).lower() for member in closure.members)
    return any(word in name for name in named for word in _MIXING)


def fused(graph: Any, model: nn.Module, root: nn.Module, path: str) -> Closure | None:
    """Return the closure of a layer that makes query, key and value in this order.

    The library cannot follow the views after such a layer. This function finds the layer that reads the heads by its
    width, inside the module that counts them.
    """
    from torch_pruning.dependency import Dependency

    total = int(graph.get_out_channels(root))
    held = _nearest(model, path, total // 3) if total % 3 == 0 else None
    if held is None:
        return None
    width = total // 3
    readers = [
        module
        for module in model.get_submodule(held[0]).modules()
        if module is not root and _is_linear(module) and graph.get_in_channels(module) == width
    ]
    if len(readers) != 1 or readers[0] not in graph.module2node:
        return None
    members = []
    for module, makes in ((root, True), (readers[0], False)):
        pruner, node = graph.get_pruner_of_module(module), graph.module2node[module]
        handler = pruner.prune_out_channels if makes else pruner.prune_in_channels
        indices = range(total if makes else width)
        members.append(GroupMember(Dependency(handler, handler, source=node, target=node), {i: i for i in indices}))
    return Closure(members, [[channel + part * width for part in range(3)] for channel in range(width)], True)


def tell(module: nn.Module, heads: int, left: int, width: int) -> None:
    """Update the attributes of a module that counts heads.

    Args:
        module: the module with the attributes.
        heads: previous number of heads.
        left: new number of heads.
        width: previous total width of all heads.
    """
    for name in _COUNTS:
        if vars(module).get(name) == heads:
            setattr(module, name, left)
    for name in _WIDTHS:
        if vars(module).get(name) == width:
            setattr(module, name, width // heads * left)


def _nearest(model: nn.Module, path: str, width: int) -> tuple[str, int] | None:
    while path:
        path = path.rpartition(".")[0]
        module = model.get_submodule(path)
        for name in _COUNTS:
            heads = vars(module).get(name)
            if (
                type(heads) is int
                and heads > 1
                and width % heads == 0
                and not isinstance(module, nn.MultiheadAttention)
            ):
                return path, heads
    return None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
