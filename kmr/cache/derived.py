"""What rules and trainings find out by running a model over data or by decomposing weights, kept while a store is open.

A rule is given a model and a value, and no store: whoever runs it opens one around it with `keeping`. Without one
everything is computed each time, to the same result.
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
    """Keep what is derived in the body in a store; None keeps nothing."""
    token = _STORE.set(store)
    try:
        yield
    finally:
        _STORE.reset(token)


def derived(what: str, make: Callable[[], Mapping[str, Tensor]], seed: int = 0, /, **parts: Any) -> dict[str, Tensor]:
    """Return tensors on the CPU that follow from some parts alone, computed where no store has them.

    Args:
        what: names the kind of result.
        make: computes it; its random choices flow from the seed, and the caller's generators stay as they are.
        seed: of those.
        parts: all that the result depends on, anything `kmr.cache.describe` takes; where one cannot be described
            nothing is kept.
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
