"""The sweep harness: turns a config into a study, and knob vectors into measured, saved models.

`from sweeps import search` is the search alone, for any function or table; it is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.asktell import Search
    from sweeps.searched import SearchResult
    from sweeps.searching import search
    from sweeps.stopping import Stop

__all__ = ["Search", "SearchResult", "Stop", "search"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        found = {each: getattr(import_module("sweeps.searching"), each) for each in __all__}
        globals().update(found)
        return found[name]
    raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
