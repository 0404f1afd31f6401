"""The sweep harness, which turns a config into a study and knob vectors into measured, saved models.

`from sweeps import search` gives the search alone, for any function or table. Names are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sweeps.hidden import check_packages

if TYPE_CHECKING:
    from sweeps.experiment.compression import Compression
    from sweeps.search.ask_tell import Search
    from sweeps.search.execution.stopping import Stop
    from sweeps.search.function import search
    from sweeps.search.result import SearchResult

__all__ = ["Compression", "Search", "SearchResult", "Stop", "search"]

check_packages()

_HOMES: dict[str, str] = {
    "Compression": "sweeps.experiment.compression",
    "Search": "sweeps.search.ask_tell",
    "SearchResult": "sweeps.search.result",
    "Stop": "sweeps.search.execution.stopping",
}


def __getattr__(name: str) -> Any:
    if name == "search":  # a callable package
        return importlib.import_module("sweeps.search")
    if name not in _HOMES:
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return globals()[name]
