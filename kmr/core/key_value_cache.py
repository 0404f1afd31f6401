"""The key/value cache of transformers' models, which is of use for generation alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def without_key_value_cache(model: nn.Module) -> Iterator[None]:
    """Switch off the cache that a model's `config.use_cache` turns on, then restore it."""
    config = getattr(model, "config", None)
    if getattr(config, "use_cache", None) is not True:
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = True  # type: ignore[union-attr]
