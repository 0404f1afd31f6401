"""Removing channels from a model exactly: which layers depend on each other, the cut, and the proof that it was right.

The dependency graph of Torch-Pruning (Fang et al. 2023) says which slices of which parameters go together. It is run on
a twin whose parameters hold the numbers of their own elements, so that after the cut every parameter of the twin tells
which elements of the original survive: weights, masks and grids are then sliced alike, bit by bit.

A graph traced from one forward pass misses what lies in the shapes of the code (`view(-1, 32)`, a padded shortcut,
attention heads), so a cut is believed only once it is proved (`proof`).
"""

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs
from kmr.instantiations.pruning.proof import CutFailed, brief, check_cut, outputs_of

Choice = Callable[[Sequence["ChannelGroup"]], Sequence[Tensor]]
"""Of the groups that may be cut, the channel numbers to remove from each."""


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only be removed together, through every layer that makes or reads them.

    Args:
        root: path of the layer whose output channels number the group.
        makers: paths of all layers that lose output channels with it.
        scores: importance of each channel, shape (channels,); empty where the channels cannot be ranked or removed.
        blocks: equal blocks that must lose channels at the same places.
        simple: one layer makes the channels, and nothing but per-channel operations stands between it and its readers.
    """

    root: str
    makers: tuple[str, ...]
    scores: Tensor
    blocks: int
    simple: bool


@dataclass(frozen=True, eq=False)
class Cut:
    """A smaller model, and for each parameter of the original (by path and name) the numbers of surviving elements."""

    model: nn.Module
    survivors: dict[tuple[str, str], Tensor]


def channel_groups(model: nn.Module, inputs: Inputs, norm: int) -> list[ChannelGroup]:
    """Return the groups of channels that do not reach the model's output.

    Args:
        model: without parametrizations; it is not changed.
        inputs: a batch the model runs on.
        norm: importance is the mean, over the layers of a group, of a channel's weights in this power.

    Raises:
        CutFailed: the model cannot be traced.
    """
    with _quiet():
        graph = _traced(copy.deepcopy(model), inputs)
        return [group for group, _ in _groups(graph, norm)]


def cut(model: nn.Module, inputs: Inputs, norm: int, roots: frozenset[str], choose: Choice) -> Cut:
    """Return a model without the chosen channels, checked; the given one is not changed.

    Args:
        model: without parametrizations.
        inputs: a batch the model runs on.
        norm: as for `channel_groups`.
        roots: the groups that may be cut, by root.
        choose: picks the channels.

    Raises:
        CutFailed: with the reason.
    """
    twin = copy.deepcopy(model)
    with _quiet():
        graph = _traced(twin, inputs)
        groups = [(group, handler) for group, handler in _groups(graph, norm) if group.root in roots]
        chosen = choose([group for group, _ in groups])
        _number_elements(twin)
        for (group, handler), channels in zip(groups, chosen, strict=True):
            if len(channels):
                _remove(graph, twin.get_submodule(group.root), handler, channels)
    survivors = _fill(twin, model)
    for smaller, original in zip(twin.modules(), model.modules(), strict=True):
        smaller.training = original.training
    check_cut(model, twin, survivors, inputs)
    return Cut(twin, survivors)


def sliced(tensor: Tensor, survivors: Tensor) -> Tensor:
    """Return the surviving elements of a tensor, in the shape of their numbers."""
    return tensor.reshape(-1)[survivors.to(tensor.device)]


def sliced_like(scale: Tensor, shape: torch.Size, survivors: Tensor) -> Tensor:
    """Return what a tensor that broadcasts against a weight of some shape becomes when the weight is cut."""
    if scale.numel() == 1:
        return scale
    aligned = scale.reshape((1,) * (len(shape) - scale.dim()) + scale.shape)
    cut_full = sliced(aligned.expand(shape), survivors)
    for dim, size in enumerate(aligned.shape):
        if size == 1:
            cut_full = cut_full.narrow(dim, 0, 1)
    return cut_full.contiguous()


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise KMRError("structured pruning needs Torch-Pruning: pip install torch-pruning") from error
    return torch_pruning


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        yield


def _traced(model: nn.Module, inputs: Inputs) -> Any:
    """Return the dependency graph of a model, which is left in eval mode with gradients on."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    tp = _torch_pruning()

    def differentiable(traced: nn.Module, batch: Inputs) -> list[Tensor]:
        return [output for output in outputs_of(traced, batch) if output.grad_fn is not None]

    try:
        return tp.DependencyGraph().build_dependency(model, inputs, forward_fn=differentiable, verbose=False)
    except Exception as error:
        raise CutFailed(f"the model cannot be traced: {brief(error)}") from error


def _groups(graph: Any, norm: int) -> Iterator[tuple[ChannelGroup, Any]]:
    """Yield each group that keeps clear of the output, with the graph's handle on its root."""
    tp = _torch_pruning()
    importance = tp.importance.GroupMagnitudeImportance(p=norm)
    kinds = tp.ops.OPTYPE
    direct = {kinds.CONV, kinds.LINEAR, kinds.DEPTHWISE_CONV, kinds.BN, kinds.PRELU, kinds.ELEMENTWISE}
    for members in list(graph.get_all_groups(root_module_types=[tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR])):
        touched = [(dep.target, graph.is_out_channel_pruning_fn(dep.handler)) for dep, _ in members]
        if any(makes and (not node.outputs or isinstance(node.module, nn.RNNBase)) for node, makes in touched):
            continue
        makers = [node.module for node, makes in touched if makes and _makes_channels(node.module)]
        blocks = math.lcm(*(_blocks(node.module) for node, _ in touched))
        scores = _scores(importance, members)
        if len(scores) % blocks or any(_is_grouped_transposed(node.module) for node, _ in touched):
            scores = torch.empty(0)
        mixers = [m for m in makers if not (isinstance(m, nn.modules.conv._ConvNd) and _is_depthwise(m))]
        yield (
            ChannelGroup(
                root=graph._module2name[members[0].dep.target.module],
                makers=tuple(dict.fromkeys(graph._module2name[maker] for maker in makers)),
                scores=scores,
                blocks=blocks,
                simple=len(set(mixers)) == 1 and all(node.type in direct for node, _ in touched),
            ),
            members[0].dep.handler,
        )


def _scores(importance: Any, members: Any) -> Tensor:
    try:
        scores = importance(members)
    except Exception:  # whatever the library meets in layers it does not know
        scores = None
    return torch.empty(0) if scores is None else torch.as_tensor(scores)


def _is_grouped_transposed(module: Any) -> bool:
    """Tell whether a layer's weight has the channels of one group only, which the dependency graph takes for all."""
    return isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1 and not _is_depthwise(module)


def _makes_channels(module: Any) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.Embedding | nn.MultiheadAttention)


def _is_depthwise(convolution: Any) -> bool:
    return bool(convolution.groups == convolution.out_channels and convolution.groups > 1)


def _blocks(module: Any) -> int:
    match module:
        case nn.GroupNorm():
            return int(module.num_groups)
        case nn.MultiheadAttention():
            return int(module.num_heads)
        case nn.modules.conv._ConvNd() if not _is_depthwise(module):
            return int(module.groups)
    return 1


def _number_elements(model: nn.Module) -> None:
    """Overwrite every parameter and buffer with 0, 1, 2, … in its own shape."""

    def numbers(tensor: Tensor) -> Tensor:
        return torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device).reshape(tensor.shape)

    for parameter in model.parameters():
        parameter.data = numbers(parameter)
    for module in model.modules():
        module._buffers.update({name: numbers(b) for name, b in module._buffers.items() if b is not None})


def _remove(graph: Any, root: nn.Module, handler: Any, channels: Tensor) -> None:
    try:
        members = graph.get_pruning_group(root, handler, channels.tolist())
        if not graph.check_pruning_group(members):
            raise CutFailed("a layer would lose all its channels")
        members.prune()
    except CutFailed:
        raise
    except Exception as error:
        raise CutFailed(f"the layers do not fit together: {brief(error)}") from error


def _fill(twin: nn.Module, original: nn.Module) -> dict[tuple[str, str], Tensor]:
    """Replace the element numbers in the twin by the original's values; return the numbers."""
    survivors: dict[tuple[str, str], Tensor] = {}
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}
    for (path, module), smaller in zip(original.named_modules(), twin.modules(), strict=True):
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            numbers = smaller._parameters[name].detach().long()  # type: ignore[union-attr]
            survivors[path, name] = numbers
            if id(parameter) not in made:
                kept = nn.Parameter(sliced(parameter.detach(), numbers), requires_grad=parameter.requires_grad)
                made[id(parameter)] = numbers, kept
            shared_numbers, shared = made[id(parameter)]
            if not torch.equal(shared_numbers, numbers):
                raise CutFailed(f"the weight {name} of {path}, which is shared, would be cut in two ways")
            smaller._parameters[name] = shared
        for name, buffer in module._buffers.items():
            if buffer is not None:
                smaller._buffers[name] = sliced(buffer, smaller._buffers[name].long())  # type: ignore[union-attr]
    return survivors
