"""Dependency groups of channels, as plain data from the graph of Torch-Pruning (Fang et al. 2023).

The graph is built on a twin of the model, in which `surgery` then cuts. A graph traced from one pass misses
dependencies in the code's shapes (`view(-1, 32)`, a padded shortcut, attention heads). Its groups are therefore
proposals: every cut must be proved (`proof`).
"""

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs
from kmr.instantiations.pruning.closure import Closure, follow
from kmr.instantiations.pruning.heads import fused, holder_of, mixes_tokens, tell
from kmr.instantiations.pruning.proof import CutFailed, brief, outputs_of


@dataclass(frozen=True, eq=False)
class Part:
    """A group's channels in one layer.

    Args:
        path: the layer's path.
        makes: True if the layer makes the channels (or passes them on one by one), False if it reads them.
        positions: the layer's own numbers of these channels, (n,).
        channels: the group's channel at each position, (n,).
    """

    path: str
    makes: bool
    positions: Tensor
    channels: Tensor


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """A group of channels with the layers that make or read them; removing one cuts all of these layers.

    Args:
        root: path of a layer that makes the channels; it identifies the group.
        makers: paths of all layers that lose output channels with the group.
        parts: the group's channels in every layer that has parameters for them.
        size: number of channels.
        blocks: number of equal blocks that must lose channels at the same positions.
        simple: whether one layer makes the channels and only per-channel operations lie between it and its readers.
        removable: whether the library cuts such groups correctly.
        kind: equal for groups of the same kinds of layers in the same order (isomorphic groups).
        holder: path of the module that counts the attention heads of these channels; None if they are not heads.
        heads: number of attention heads, which can only be removed whole.
    """

    root: str
    makers: tuple[str, ...]
    parts: tuple[Part, ...]
    size: int
    blocks: int
    simple: bool
    removable: bool
    kind: str
    holder: str | None = None
    heads: int = 1


class Graph:
    """The dependency graph of a twin of a model, for one cut.

    Args:
        model: a model without parametrizations; it is not changed.
        inputs: a batch that the model runs on.

    Raises:
        CutFailed: the model cannot be traced.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        # The twin shares the model's weights; they are replaced before a cut.
        self.twin = copy.deepcopy(
            model, {id(p): nn.Parameter(p.detach()) for p in model.parameters() if p.is_floating_point()}
        )
        with quiet():
            self.shapes: list[torch.Size] = []
            self._graph = _traced(self.twin, inputs, self.shapes)
            self._closures: dict[str, Closure] = {}
            self.groups = tuple(self._read())
        """The groups that do not reach the model's output."""

    def remove(self, removed: Mapping[str, Tensor]) -> None:
        """Remove channels, by the root of their group, from the twin.

        Raises:
            CutFailed: the smaller layers do not match, or a layer would lose all its channels.
        """
        cuts: dict[tuple[Any, Any], tuple[Any, set[int]]] = {}
        for root, channels in removed.items():
            closure, gone = self._closures[root], set(self._roots_of(root, channels))
            for member in closure.members:
                indices = {index for index, source in member.roots.items() if source in gone}
                key = (member.node, member.handler)
                cuts.setdefault(key, (member.dependency, set()))[1].update(indices)
        for dependency, indices in cuts.values():
            width = self._width(dependency)
            if width is not None and width <= len(indices):
                raise CutFailed("a layer would lose all its channels")
        try:
            with quiet():
                for dependency, indices in cuts.values():
                    if indices:
                        self._remove(dependency, sorted(indices))
        except Exception as error:
            raise CutFailed(f"the smaller layers do not match: {brief(error)}") from error
        for group in self.groups:
            heads_gone = len(removed.get(group.root, ())) * group.heads // group.size
            if group.holder is not None and heads_gone:
                tell(self.twin.get_submodule(group.holder), group.heads, group.heads - heads_gone, group.size)

    def _roots_of(self, root: str, channels: Tensor) -> list[int]:
        linked = self._closures[root].linked
        wanted: list[int] = channels.tolist()
        return wanted if linked is None else [index for channel in wanted for index in linked[channel]]

    def _width(self, dependency: Any) -> int | None:
        makes = self._graph.is_out_channel_pruning_fn(dependency.handler)
        width = (self._graph.get_out_channels if makes else self._graph.get_in_channels)(dependency.target)
        return None if width is None else int(width)

    def _remove(self, dependency: Any, indices: list[int]) -> None:
        target = dependency.target.module
        if isinstance(target, nn.Parameter):
            path, _, name = self._graph._param_to_name[target].rpartition(".")
            setattr(self.twin.get_submodule(path), name, dependency(indices))
        elif target in self._graph._module2name:
            dependency(indices)

    def _read(self) -> Iterator[ChannelGroup]:
        graph, tp = self._graph, _torch_pruning()
        kinds = tp.ops.OPTYPE
        direct = {
            kinds.CONV, kinds.LINEAR, kinds.DEPTHWISE_CONV, kinds.BN, kinds.PRELU, kinds.ELEMENTWISE, kinds.CUSTOMIZED,
        }  # fmt: skip
        roots = (tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR)
        seen: set[Any] = set()
        for root in list(graph.module2node):
            if not isinstance(root, roots) or root in seen:
                continue
            handler = graph.get_pruner_of_module(root).prune_out_channels
            closure = follow(graph, root, handler, list(range(graph.get_out_channels(root))))
            if not closure.sound:
                closure = fused(graph, self.twin, root, graph._module2name[root]) or closure
            touched = [(member.node, graph.is_out_channel_pruning_fn(member.handler)) for member in closure.members]
            seen.update(node.module for node, makes in touched if makes)
            if any(makes and (not node.outputs or isinstance(node.module, nn.RNNBase)) for node, makes in touched):
                continue
            name = graph._module2name[root]
            self._closures[name] = closure
            makers = [node.module for node, makes in touched if makes and _makes_channels(node.module)]
            mixers = [m for m in makers if not (isinstance(m, nn.modules.conv._ConvNd) and is_depthwise(m))]
            size = len(closure.linked or closure.members[0].roots)
            blocks = math.lcm(*(_blocks(node.module) for node, _ in touched))
            paths = tuple(dict.fromkeys(graph._module2name[maker] for maker in makers))
            held = None
            if (len(paths) > 1 and mixes_tokens(closure)) or (closure.linked is not None and len(closure.members) == 2):
                held = holder_of(self.twin, paths, size)
            yield ChannelGroup(
                root=name,
                makers=paths,
                parts=tuple(self._parts(closure)) if closure.sound else (),
                size=size,
                blocks=blocks,
                simple=len(set(mixers)) == 1 and all(node.type in direct for node, _ in touched),
                removable=closure.sound
                and size % blocks == 0
                and not any(_one_group_only(n.module) for n, _ in touched),
                kind=" ".join(f"{type(node.module).__name__}:{'out' if makes else 'in'}" for node, makes in touched),
                holder=None if held is None else held[0],
                heads=1 if held is None else held[1],
            )

    def _parts(self, closure: Closure) -> Iterator[Part]:
        channel_of = None
        if closure.linked is not None:
            channel_of = {index: channel for channel, indices in enumerate(closure.linked) for index in indices}
        for member in closure.members:
            module = member.node.module
            if not isinstance(module, nn.Module) or not any(True for _ in module.parameters(recurse=False)):
                continue
            pairs = [(index, root) for index, root in sorted(member.roots.items()) if root is not None]
            channels = [root if channel_of is None else channel_of[root] for _, root in pairs]
            yield Part(
                path=self._graph._module2name[module],
                makes=self._graph.is_out_channel_pruning_fn(member.handler),
                positions=torch.tensor([index for index, _ in pairs], dtype=torch.long),
                channels=torch.tensor(channels, dtype=torch.long),
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's output and warnings, with gradients on, which its tracing needs."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        yield


def is_depthwise(convolution: Any) -> bool:
    """Tell whether each output channel of a convolution depends on a single input channel."""
    return bool(convolution.groups == convolution.out_channels and convolution.groups > 1)


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise KMRError(f"structured pruning needs Torch-Pruning ({error}): pip install torch-pruning") from error
    return torch_pruning


def _traced(model: nn.Module, inputs: Inputs, shapes: list[torch.Size]) -> Any:
    """Return a model's dependency graph and append its outputs' shapes; leave it in eval mode with gradients on."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    tp = _torch_pruning()

    def differentiable(traced: nn.Module, batch: Inputs) -> list[Tensor]:
        outputs = outputs_of(traced, batch)
        shapes.extend(output.shape for output in outputs)
        return [output for output in outputs if output.grad_fn is not None]

    try:
        return tp.DependencyGraph().build_dependency(model, inputs, forward_fn=differentiable, verbose=False)
    except Exception as error:
        raise CutFailed(f"the model cannot be traced: {brief(error)}") from error


def _one_group_only(module: Any) -> bool:
    """Tell whether a layer's weight has only the channels of one group, which the dependency graph mistakes for all."""
    return isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1 and not is_depthwise(module)


def _makes_channels(module: Any) -> bool:
    kinds = nn.modules.conv._ConvNd | nn.Linear | nn.Embedding | nn.MultiheadAttention
    return isinstance(module, kinds)


def _blocks(module: Any) -> int:
    match module:
        case nn.GroupNorm():
            return int(module.num_groups)
        case nn.MultiheadAttention():
            return int(module.num_heads)
        case nn.modules.conv._ConvNd() if not is_depthwise(module):
            return int(module.groups)
    return 1
