"""Attention heads: which channels are a head, and what the code around them has to be told when heads go.

A head is a run of neighbouring channels of query, key and value, as long as the code says. Most code can be told of
fewer heads: it keeps their number, and often the width of all of them, in attributes. Whether it took the telling is
proved like any other cut (`proof`): without its channels a head adds nothing.
"""

from typing import Any

from torch import nn

from kmr.instantiations.pruning.closure import Closure, Member
from kmr.instantiations.pruning.rows import is_transposed_linear

_COUNTS = ("num_heads", "num_attention_heads", "n_head", "n_heads", "heads", "nhead")
_WIDTHS = ("all_head_size", "inner_dim", "split_size", "embed_dim", "hidden_size")
_MIXING = ("bmm", "softmax", "scaleddotproduct", "scaled_dot_product")


def holder_of(model: nn.Module, paths: tuple[str, ...], width: int) -> tuple[str, int] | None:
    """Return the path of the module around all these layers that counts heads, and their number; None without one."""
    found: set[tuple[str, int] | None] = set()
    for path in paths:
        found.add(_nearest(model, path, width))
    return found.pop() if len(found) == 1 else None


def mixes_tokens(closure: Closure) -> bool:
    """Tell whether attention lies between the layers of a group."""
    named = (str(getattr(member.node.module, "_grad_fn", "")).lower() for member in closure.members)
    return any(word in name for name in named for word in _MIXING)


def fused(graph: Any, model: nn.Module, root: nn.Module, path: str) -> Closure | None:
    """Return what goes with the channels of one layer that makes query, key and value in this order.

    The library loses itself in the views behind such a layer; here the layer that reads the heads is found by its width
    within the module that counts them.
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
        members.append(Member(Dependency(handler, handler, source=node, target=node), {i: i for i in indices}))
    return Closure(members, [[channel + part * width for part in range(3)] for channel in range(width)], True)


def tell(module: nn.Module, heads: int, left: int, width: int) -> None:
    """Set the attributes of a module that counts heads to those left.

    Args:
        module: holds the attributes.
        heads: number of heads before.
        left: number of heads now.
        width: width of all heads before.
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
    return isinstance(module, nn.Linear) or is_transposed_linear(module)
