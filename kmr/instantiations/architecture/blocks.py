"""Removable blocks of a model: residual blocks, transformer layers, and other modules that add to their input."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.data import Inputs
from kmr.instantiations.pruning.proof import outputs_of
from kmr.representation.weights import strip_all

Undo: TypeAlias = Callable[[], None]


class Skip(nn.Module):
    """An identity in place of a removed block.

    Args:
        argument: the keyword of the block's input; None if the input is the first positional argument.
        extra: number of values, all None here, that the block returned in a tuple after its output; None if it returned
            the output alone.
    """

    def __init__(self, argument: str | None = None, extra: int | None = None) -> None:
        super().__init__()
        self.argument, self.extra = argument, extra

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the input."""
        x = args[0] if self.argument is None else kwargs[self.argument]
        return x if self.extra is None else (x, *(None,) * self.extra)


@dataclass(frozen=True)
class Block:
    """A block's path, and the form of its calls (see `Skip`)."""

    path: str
    argument: str | None = None
    extra: int | None = None


def find_blocks(model: nn.Module, inputs: Inputs) -> list[Block]:
    """Return the blocks of a model in eval mode, in its order; the model is not changed.

    A block has a weight and is called once. Its output has the shape and dtype of its input, and still depends on the
    input when all weights in the block are 0, so a path around them exists. Of nested blocks the outermost counts,
    except a chain or a block that contains several blocks of the same class: their inner blocks count. A module used in
    several places is not a block.
    """
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1
    paths = [
        path
        for path, module in model.named_modules()
        if path and places[id(module)] == 1 and any(p.dim() > 1 for p in module.parameters())
    ]
    found: dict[str, Block | None] = {}

    def find(path: str, module: nn.Module, args: _Args, kwargs: _Kwargs, output: Any) -> None:
        # A second call disqualifies the module.
        found[path] = None if path in found else _as_block(path, module, args, kwargs, output)

    _watch(model, paths, find, [inputs])
    blocks = {path: block for path in paths if (block := found.get(path)) is not None}
    return [blocks[path] for path in _outermost(model, list(blocks))]


def influence(model: nn.Module, blocks: Sequence[Block], batches: Iterable[Inputs]) -> list[float]:
    """Return each block's influence: the mean over samples of 1 − cos(input, output), 0 to 2.

    This is the block influence of ShortGPT (Men et al. 2024), for features of any shape.
    """
    totals = {block.path: (0.0, 0) for block in blocks}
    arguments = {block.path: block.argument for block in blocks}

    def weigh(path: str, _: nn.Module, args: _Args, kwargs: _Kwargs, output: Any) -> None:
        taken, given = _taken(arguments[path], args, kwargs), _first(output)
        similar = F.cosine_similarity(taken.flatten(1).double(), given.flatten(1).double())
        total, count = totals[path]
        totals[path] = total + float((1 - similar).sum()), count + len(similar)

    _watch(model, list(totals), weigh, batches)
    return [total / max(count, 1) for total, count in totals.values()]


def change(model: nn.Module, blocks: Sequence[Block], batches: Iterable[Inputs]) -> list[float]:
    """Return the mean squared change of the model's outputs when each block alone is removed.

    The change is infinite if the model does not run without the block.
    """
    moved, count = [0.0] * len(blocks), 0
    for inputs in batches:
        whole = _values(model, inputs)
        count += whole.numel()
        for place, block in enumerate(blocks):
            without = _without(model, block, inputs)
            moved[place] += math.inf if without is None else float((without - whole).square().sum())
    return [total / max(count, 1) for total in moved]


def skip(model: nn.Module, block: Block) -> Undo:
    """Replace a block by an identity, in place; return a function that undoes it."""
    parent, _, name = block.path.rpartition(".")
    holder, whole = model.get_submodule(parent), model.get_submodule(block.path)

    def put(module: nn.Module) -> None:
        holder._modules[name] = module

    put(Skip(block.argument, block.extra).train(whole.training))
    return lambda: put(whole)


def delete(model: nn.Module, block: Block) -> Undo | None:
    """Remove a block from its `ModuleList`, in place; return a function that undoes it, or None without such a list.

    Skipped blocks are removed too, and the others are renumbered. This serves code that reads attributes of an entry,
    as `nn.TransformerEncoder` does of its first: an identity cannot replace such entries.
    """
    parent, _, name = block.path.rpartition(".")
    holder = model.get_submodule(parent)
    if not isinstance(holder, nn.ModuleList):
        return None
    before = dict(holder.named_children())
    left = [module for at, module in before.items() if at != name and not isinstance(module, Skip)]

    def hold(entries: Mapping[str, nn.Module]) -> None:
        holder._modules.clear()
        holder._modules.update(entries)

    hold({str(number): module for number, module in enumerate(left)})
    return lambda: hold(before)


WAYS = (skip, delete)
"""Ways to remove a block, the preferred one first."""


_Args: TypeAlias = tuple[Any, ...]
_Kwargs: TypeAlias = dict[str, Any]


def _watch(
    model: nn.Module,
    paths: Sequence[str],
    on_call: Callable[[str, nn.Module, _Args, _Kwargs, Any], None],
    batches: Iterable[Inputs],
) -> None:
    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: _Args, kwargs: _Kwargs, output: Any) -> None:
            on_call(path, module, args, kwargs, output)

        return model.get_submodule(path).register_forward_hook(hook, with_kwargs=True)

    with ExitStack() as stack, torch.no_grad():
        for path in paths:
            stack.callback(watch(path).remove)
        for batch in batches:
            outputs_of(model, batch)


def _as_block(path: str, module: nn.Module, args: _Args, kwargs: _Kwargs, output: Any) -> Block | None:
    given = _first(output)
    argument = None if args else next((name for name, value in kwargs.items() if _alike(value, given)), None)
    if not (args or argument) or not _alike(_taken(argument, args, kwargs), given):
        return None
    if not _follows_its_input(module, argument, args, kwargs):
        return None
    return Block(path, argument, len(output) - 1 if isinstance(output, tuple) else None)


def _taken(argument: str | None, args: _Args, kwargs: _Kwargs) -> Any:
    return args[0] if argument is None else kwargs[argument]


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def _alike(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and one.shape == other.shape and one.dtype == other.dtype and one.is_floating_point()


def _follows_its_input(module: nn.Module, argument: str | None, args: _Args, kwargs: _Kwargs) -> bool:
    """Tell whether a module's output depends on its input when every weight matrix in it is 0."""
    silent = copy.deepcopy(module)
    for inner in silent.modules():
        inner._forward_hooks.clear()
    # Parametrized weights are stripped first: a latent value of 0 does not make them 0.
    silent = strip_all(silent)
    with torch.no_grad():
        for parameter in silent.parameters():
            if parameter.dim() > 1:
                parameter.zero_()

    def run(x: Tensor) -> Tensor:
        made: Tensor = _first(silent(x, *args[1:], **kwargs) if argument is None else silent(**{**kwargs, argument: x}))
        return made

    x = _taken(argument, args, kwargs)
    other = x + x.flatten().roll(1).reshape(x.shape) + 1
    return not torch.allclose(run(x), run(other))


def _outermost(model: nn.Module, found: list[str]) -> Iterator[str]:
    """Yield the outermost blocks; replace a chain, or a block with several inner ones of a class, by its inner ones."""

    def whole(path: str) -> bool:
        inside = [model.get_submodule(other) for other in found if other.startswith(f"{path}.")]
        chain = type(model.get_submodule(path)).forward is nn.Sequential.forward
        return not (chain and inside) and len(inside) == len({type(module) for module in inside})

    wholes = [path for path in found if whole(path)]
    for path in wholes:
        if not any(path.startswith(f"{other}.") for other in wholes):
            yield path


def _without(model: nn.Module, block: Block, inputs: Inputs) -> Tensor | None:
    for way in WAYS:
        if (undo := way(model, block)) is None:
            continue
        try:
            return _values(model, inputs)
        except Exception:  # a user's forward pass may raise anything
            continue
        finally:
            undo()
    return None


def _values(model: nn.Module, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        outputs = outputs_of(model, inputs)
    return torch.cat([output.double().flatten() for output in outputs if output.is_floating_point()])
