"""Tracking of layers' outputs through a forward pass: into BatchNorms and sums."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

BatchNorm: TypeAlias = nn.modules.batchnorm._BatchNorm

_SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)
_UNCHANGING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Made:
    """The origin of a tensor: a layer, and the BatchNorm directly after it if there is one."""

    path: str
    norm: BatchNorm | None = None


Candidates: TypeAlias = list[tuple[Made, Tensor, Tensor]]
"""The operands of a sum that come from a layer: each with its origin and the other operand."""


@dataclass
class Tracking:
    """Callbacks by layer path: `before` gets a layer's input before it runs, `after` gets its output."""

    before: dict[str, Callable[[str, nn.Module, Tensor], None]] = field(default_factory=dict)
    after: dict[str, Callable[[str, nn.Module, Tensor], None]] = field(default_factory=dict)
    normalised: dict[str, BatchNorm] = field(default_factory=dict)
    """The BatchNorm directly after a layer, by the layer's path."""


class Joins(TorchFunctionMode):
    """A torch function mode that calls back before every sum of two tensors of the same shape."""

    def __init__(self, found: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Report a sum, then run the operation."""
        if func in _SUMS and len(args) == 2:
            one, other = args
            if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one is not other:
                self.found(one, other)
        return func(*args, **(kwargs or {}))


@contextmanager
def tracking(
    model: nn.Module, layers: Mapping[str, nn.Module], on_join: Callable[[Candidates], None]
) -> Iterator[Tracking]:
    """Track the outputs of some layers through forward passes within the body."""
    tracked = Tracking()
    origin: MutableMapping[Any, Made] = WeakIdKeyDictionary()

    def before(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if path in tracked.before and args:
                tracked.before[path](path, module, args[0])

        return hook

    def after(path: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                origin[output] = Made(path)
                if path in tracked.after:
                    tracked.after[path](path, module, output)

        return hook

    def normalising(module: BatchNorm, args: tuple[Any, ...], output: Tensor) -> None:
        made = origin.get(args[0]) if args else None
        if made is not None and made.norm is None:
            origin[output] = Made(made.path, module)
            tracked.normalised[made.path] = module

    def passing(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        made = origin.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if made is not None and isinstance(output, Tensor):
            origin[output] = made

    def joined(one: Tensor, other: Tensor) -> None:
        found = [(origin.get(mine), mine, theirs) for mine, theirs in ((one, other), (other, one))]
        if candidates := [(made, mine, theirs) for made, mine, theirs in found if made is not None]:
            on_join(candidates)

    with ExitStack() as stack:
        for path, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(before(path)).remove)
            stack.callback(layer.register_forward_hook(after(path)).remove)
        for module in model.modules():
            if isinstance(module, BatchNorm):
                stack.callback(module.register_forward_hook(normalising).remove)
            elif isinstance(module, _UNCHANGING):
                stack.callback(module.register_forward_hook(passing).remove)
        stack.enter_context(Joins(joined))
        yield tracked
