"""Cached results that rules and trainings derive from a model, its data or its weights.

A rule gets a model and a value but no store: its caller opens one with `keeping`. Without an open store everything is
computed each time, with the same result.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from kmr.cache.identity import describe
from kmr.cache.keys import key_of
from kmr.cache.store import Store
from kmr.core import KMRError, isolated_rng

_STORE: ContextVar[Store | None] = ContextVar("store", default=None)


@contextmanager
def keeping(store: Store | None) -> Iterator[None]:
    """Cache the derived results of the body in a store; None caches nothing."""
    token = _STORE.set(store)
    try:
        yield
    finally:
        _STORE.reset(token)


def derived(what: str, make: Callable[[], Mapping[str, Tensor]], seed: int = 0, /, **parts: Any) -> dict[str, Tensor]:
    """Return tensors that depend on the named parts alone, from the open store or newly computed, on the CPU.

    Args:
        what: the kind of result.
        make: computes it; its random choices follow `seed`, and the caller's random generators are not advanced.
        seed: seeds `make`.
        parts: everything that the result depends on, of any type that `kmr.cache.describe` takes; if a part cannot be
            described, the result is not cached.
    """

    def made() -> dict[str, Tensor]:
        with isolated_rng(seed):
            return {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}

    store = _STORE.get()
    if store is None:
        return made()
    try:
        described = {name: describe(part) for name, part in parts.items()}
        key = key_of(derived=what, torch=torch.__version__, threads=torch.get_num_threads(), seed=seed, parts=described)
    except KMRError:
        return made()
    return dict(store.compute(key, lambda: (made(), {})).tensors)
