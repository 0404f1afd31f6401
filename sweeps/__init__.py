"""The sweep harness: turns a config into a study, and knob vectors into measured, saved models.

`from sweeps import search` is the search alone, for any function or table; it is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.asktell import Search
    from sweeps.compression import Compression
    from sweeps.searched import SearchResult
    from sweeps.searching import search
    from sweeps.stopping import Stop

__all__ = ["Compression", "Search", "SearchResult", "Stop", "search"]


_HOMES = {
    "Compression": "sweeps.compression",
    "Search": "sweeps.asktell",
    "SearchResult": "sweeps.searched",
    "Stop": "sweeps.stopping",
    "search": "sweeps.searching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = getattr(import_module(_HOMES[name]), name)
    return globals()[name]
