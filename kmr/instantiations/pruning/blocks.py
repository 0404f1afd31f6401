"""Depth pruning: the residual blocks that change their input least go (Veit et al. 2016; Men et al. 2024)."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs, Split
from kmr.instantiations.layers import LayerRule
from kmr.instantiations.pruning.proof import brief, outputs_of
from kmr.weights import weight_layers


class Skip(nn.Module):
    """What is left of a block that is gone: its input.

    Args:
        extra: how many more values, all None, the block gave beside its output; None where it gave the output alone.
    """

    def __init__(self, extra: int | None = None) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        """Return the input."""
        return x if self.extra is None else (x, *(None,) * self.extra)


@dataclass(frozen=True, eq=False)
class Block:
    """A residual block: where it is, how much it changes its input, and how many values it gives beside its output.

    `influence` is 1 − cos(x, f(x)), the mean over samples, 0 to 2.
    """

    path: str
    influence: float
    extra: int | None


@final
@dataclass(frozen=True, kw_only=True)
class BlockPruning(LayerRule):
    """Leave out the residual blocks that change their input least.

    The value is the fraction of the blocks to leave out, of those that can be: modules with weights whose output has
    the shape of their input and still follows it when their weights are 0. Blocks in blocks count once, the outer one,
    but several of one kind in one module count each.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        data: samples to measure the change on; the example batch where there are none.
        samples: how many of them.
    """

    name: str = "blocks"
    example_inputs: Inputs = field(repr=False, compare=False)
    data: Split | None = field(default=None, repr=False, compare=False)
    samples: int = 128
    setting: ClassVar[str] = "ratio"
    domain: ClassVar[Domain] = FloatRange(0.0, 0.9, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise KMRError(f"samples of {self.name} must be at least 1, not {self.samples}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        modes = [(module, module.training) for module in model.modules()]
        try:
            with torch.no_grad():
                model.eval()
                return self._without(model, knob, float(value))
        finally:
            for module, training in modes:
                module.training = training

    def _without(self, model: nn.Module, knob: Knob, ratio: float) -> nn.Module:
        data = None if self.data is None else self.data.subset(self.samples)
        try:
            blocks = [
                block
                for block in residual_blocks(model, self.example_inputs, data)
                if self.governs(knob, block.path) and not _held_elsewhere(model, block.path)
            ]
        except Exception as error:  # a user's forward pass may raise anything
            raise NotApplicable(f"{knob.name}: the model does not run: {brief(error)}") from error
        if not blocks:
            raise NotApplicable(f"{knob.name}: no residual block whose input could take the place of its output")
        wanted = math.floor(ratio * len(blocks) + 0.5)
        if not wanted:
            self.report([block.path for block in blocks], f"left: {ratio:g} of the blocks is less than one")
            return model
        shapes = [output.shape for output in outputs_of(model, self.example_inputs)]
        left, refused, gone = model, [], 0
        for block in sorted(blocks, key=lambda block: block.influence):
            if gone == wanted:
                break
            parent, _, name = block.path.rpartition(".")
            holder = left.get_submodule(parent)
            whole = holder._modules[name]
            skip = Skip(block.extra)
            skip.training = bool(whole is not None and whole.training)
            holder._modules[name] = skip
            if self._runs(left, shapes):
                gone += 1
            else:
                holder._modules[name] = whole
                refused.append(block.path)
        self.report(refused, "left: the model does not run, or gives another shape, without it")
        if not gone:
            raise NotApplicable(f"{knob.name}: the model runs without none of its blocks")
        return left

    def _runs(self, model: nn.Module, shapes: Sequence[torch.Size]) -> bool:
        try:
            outputs = outputs_of(model, self.example_inputs)
        except Exception:  # a user's forward pass may raise anything
            return False
        return [o.shape for o in outputs] == list(shapes) and all(bool(torch.isfinite(o).all()) for o in outputs)


def residual_blocks(model: nn.Module, inputs: Inputs, data: Split | None = None) -> list[Block]:
    """Return the residual blocks of a model in eval mode, in its order, with how much each changes its input.

    Args:
        model: left as it is.
        inputs: a batch to find them with.
        data: samples to measure the change on; the batch where there are none.
    """
    found: dict[str, int | None] = {}

    def find(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if path in found or not (args and _alike(args[0], first)) or not _follows_its_input(module, args, kwargs):
            return
        found[path] = len(output) - 1 if isinstance(output, tuple) else None

    paths = [path for path, module in model.named_modules() if path and any(True for _ in weight_layers(module))]
    _watch(model, paths, find, [inputs])
    chosen = list(_outermost(model, list(found)))
    totals = dict.fromkeys(chosen, (0.0, 0))

    def weigh(path: str, _: nn.Module, args: tuple[Any, ...], __: dict[str, Any], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        cosine = F.cosine_similarity(args[0].flatten(1), first.flatten(1), dim=1).double()
        total, count = totals[path]
        totals[path] = total + float((1 - cosine).sum()), count + len(cosine)

    _watch(model, chosen, weigh, [inputs] if data is None else (batch for batch, _ in data.batches()))
    return [Block(path, total / max(count, 1), found[path]) for path, (total, count) in totals.items()]


def _watch(model: nn.Module, paths: Sequence[str], told: Any, batches: Any) -> None:
    hooks = []

    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            told(path, module, args, kwargs, output)

        return model.get_submodule(path).register_forward_hook(hook, with_kwargs=True)

    try:
        hooks = [watch(path) for path in paths]
        with torch.no_grad():
            for batch in batches:
                outputs_of(model, batch)
    finally:
        for hook in hooks:
            hook.remove()


def _alike(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and one.shape == other.shape and one.is_floating_point()


def _follows_its_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tell whether a module's output still depends on its input when every weight matrix in it is 0."""
    silent = copy.deepcopy(module)
    for inner in silent.modules():
        inner._forward_hooks.clear()
    for parameter in silent.parameters():
        if parameter.dim() > 1:
            parameter.zero_()

    def run(x: Tensor) -> Tensor:
        output = silent(x, *args[1:], **kwargs)
        made: Tensor = output[0] if isinstance(output, tuple) else output
        return made

    x = args[0]
    other = x + x.flatten().roll(1).reshape(x.shape) + 1
    return not torch.allclose(run(x), run(other))


def _outermost(model: nn.Module, found: list[str]) -> Iterator[str]:
    """Yield those not inside another, but in place of one that holds several of a kind, these."""

    def whole(path: str) -> bool:
        kinds = [type(model.get_submodule(other)) for other in found if other.startswith(f"{path}.")]
        return len(kinds) == len(set(kinds))

    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    for path in sorted(found, key=lambda path: order[path]):
        if whole(path) and not any(path.startswith(f"{other}.") and whole(other) for other in found):
            yield path


def _held_elsewhere(model: nn.Module, path: str) -> bool:
    """Tell whether the module, or a weight of it, is also somewhere else in the model."""
    block = model.get_submodule(path)
    own = {id(parameter) for parameter in block.parameters()}
    names = [name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in own]
    return any(not name.startswith(f"{path}.") for name in names)
