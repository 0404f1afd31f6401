"""A device that is another one than the CPU in name: tensors say that they are on `meta`, but hold values.

Under `elsewhere()`, an operation on tensors of both devices fails as it does on a GPU. A tensor that a rule or a meter
creates without a device is thus found on a machine without a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default)
_TAKE_INDICES = (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default, _ATEN._index_put_impl_.default)
"""Operations whose indices may be on the CPU."""


class Held(Tensor):
    """A tensor on the device that is not the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Held":
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=ELSEWHERE,
        )  # fmt: skip
        made.held = held
        return made  # type: ignore[no-any-return]

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        assert isinstance(value, Held), "a parameter on a device gets data from the CPU"
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy; call .cpu() first")

    def tolist(self) -> Any:
        return self.held.tolist()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self, **_: Any) -> str:
        return f"Held({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """Torch makes no values for `meta`; here they are wanted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            device = kwargs.pop("device")
            made = func(*args, **kwargs)
            return made if device is None else made.to(device)
        if func is torch.unravel_index and isinstance(args[0], Held):
            return tuple(part.to(ELSEWHERE) for part in torch.unravel_index(args[0].cpu(), *args[1:], **kwargs))
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _with_tensors(args[1]), *args[2:])
        if func is Tensor.new_tensor:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(args[0].device)
        return func(*args, **kwargs)


def _with_tensors(index: Any) -> Any:
    """Return an index whose lists of numbers are tensors."""
    if isinstance(index, tuple) and any(isinstance(part, slice | list | tuple | Tensor) for part in index):
        return tuple(torch.tensor(part) if isinstance(part, list | tuple) else part for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Let `.to(device)` and `device=` put tensors on the device that is given."""
    with _Elsewhere(), _Values():  # type: ignore[no-untyped-call]
        yield ELSEWHERE


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is _ATEN._fused_sdp_choice.default:
        return 0  # the fused kernels are those of a device
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in given if isinstance(tensor, Held)]
    device = kwargs.get("device")
    _check(func, args, kwargs, given, there, device)
    target = torch.device(device) if device is not None else ELSEWHERE if there else torch.device("cpu")
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu") if device is not None else None}
    plain_args, plain_kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Held) else leaf, (args, kwargs))
    found = func(*plain_args, **plain_kwargs)
    known = {id(tensor.held): tensor for tensor in there}

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in known:
            return known[id(leaf)]
        return Held(leaf) if target.type == ELSEWHERE.type and leaf.device.type == "cpu" else leaf

    if func is _ATEN.copy_.default:
        return args[0]
    return tree_map(wrapped, found)


def _check(func: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor], there: list[Tensor], device: Any) -> None:
    if kwargs.get("generator") is not None and device is not None and torch.device(device).type != "cpu":
        raise RuntimeError(f"{func}: expected a generator of another device")
    if func in _COPIES or not there:
        return
    if func in _TAKE_INDICES:
        given = [args[0], *(args[2:3])]
    strangers = [tensor for tensor in given if not isinstance(tensor, Held) and tensor.dim() > 0]
    if strangers:
        raise RuntimeError(f"{func}: expected all tensors on one device, but {len(strangers)} are on the CPU")
