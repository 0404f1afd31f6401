"""Blocks that a model can do without: residual blocks, transformer layers, whatever gives back the shape it takes."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.data import Inputs, forward


@dataclass(frozen=True)
class Block:
    """A block of a model, by the path of the list that holds it and its name there."""

    container: str
    name: str

    @property
    def path(self) -> str:
        """The path of the block itself."""
        return f"{self.container}.{self.name}" if self.container else self.name


def find_blocks(model: nn.Module, inputs: Inputs) -> list[Block]:
    """Return the blocks of a model in their order: entries of a `Sequential` or `ModuleList` that could be left out.

    A block holds weights in modules of its own, is called once, and its first output has the shape and type of its
    first input.
    """
    candidates = [
        Block(path, name)
        for path, module in model.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList) and type(module).forward in _PLAIN
        for name, child in module.named_children()
        if any(True for inner in child.children() for _ in inner.parameters()) and not isinstance(child, _CHAINS)
    ]
    with _watched(model, [block.path for block in candidates]) as calls:
        _run(model, inputs)
    kept: list[Block] = []
    for block in candidates:
        seen = calls.get(block.path, [])
        inside = any(block.path.startswith(f"{other.path}.") for other in kept)
        if len(seen) == 1 and not inside and _fits(*seen[0]):
            kept.append(block)
    return kept


def drop(model: nn.Module, blocks: list[Block]) -> nn.Module:
    """Take blocks out of a model, in place; return it."""
    for block in sorted(blocks, key=lambda one: [_number(part) for part in one.path.split(".")], reverse=True):
        container = model.get_submodule(block.container)
        if isinstance(container, nn.ModuleList):
            # Code may count through a list; the entries of a sequence may have names.
            del container[int(block.name)]
        else:
            del container._modules[block.name]
    return model


def influence(model: nn.Module, blocks: list[Block], batches: list[Inputs]) -> list[float]:
    """Return by how much each block turns what goes through it: 1 − cos(input, output), mean over samples.

    The block influence of ShortGPT (Men et al. 2024), for features of any shape.
    """
    totals, count = [0.0] * len(blocks), 0
    for inputs in batches:
        with _watched(model, [block.path for block in blocks]) as calls:
            _run(model, inputs)
        for place, block in enumerate(blocks):
            taken, given = calls[block.path][0]
            similar = F.cosine_similarity(taken.flatten(1).double(), given.flatten(1).double())
            totals[place] += float((1 - similar).sum())
            count += len(similar) if place == 0 else 0
    return [total / count for total in totals]


def change(model: nn.Module, blocks: list[Block], batches: list[Inputs]) -> list[float]:
    """Return how far the model's output moves when each block alone is left out: the mean squared difference."""
    whole = [_run(model, inputs) for inputs in batches]
    found = []
    for block in blocks:
        shorter = drop(copy.deepcopy(model), [block])
        moved = sum(
            float((_run(shorter, inputs) - output).double().square().sum())
            for inputs, output in zip(batches, whole, strict=True)
        )
        found.append(moved / sum(output.numel() for output in whole))
    return found


_CHAINS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PLAIN = (nn.Sequential.forward, nn.ModuleList.forward)


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


def _first(value: Any) -> Tensor | None:
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def _fits(taken: Tensor | None, given: Tensor | None) -> bool:
    return (
        taken is not None and given is not None and taken.is_floating_point()
        and taken.shape == given.shape and taken.dtype == given.dtype
    )  # fmt: skip


@contextmanager
def _watched(model: nn.Module, paths: list[str]) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    calls: dict[str, list[tuple[Any, Any]]] = {}
    handles = []
    for path in paths:

        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            taken = _first(args) if args else _first(list(kwargs.values()))
            calls.setdefault(path, []).append((taken, _first(output)))

        handles.append(model.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, inputs: Inputs) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            return forward(model.eval(), inputs)
    finally:
        for module, training in modes:
            module.training = training
