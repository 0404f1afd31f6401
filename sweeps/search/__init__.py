"""The search alone: minimise or maximise any function with Optuna, without a model, a config or a tracker.

The package is callable: `sweeps.search(...)` is `sweeps.search.function.search`. So `from sweeps import search` gives
a function, and `sweeps.search.study` still names a module. The function is imported at the first call.
"""

import sys
from inspect import Signature, signature
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Package that forwards a call to `search`."""

    @property
    def __signature__(self) -> Signature:
        from sweeps.search.function import search

        return signature(search)

    def __call__(self, *args: Any, **settings: Any) -> Any:
        from sweeps.search.function import search

        return search(*args, **settings)


sys.modules[__name__].__class__ = _CallablePackage
