"""Statistics and warnings of a cache."""

import warnings
from dataclasses import dataclass


class CacheWarning(UserWarning):
    """A warning that the cache does not work; results stay correct but are computed instead of recalled."""


@dataclass(frozen=True)
class Statistics:
    """The statistics of a cache for this process.

    `seconds_saved` is the time the hits once took to compute, minus the time to recall them; `bytes` is the folder's
    size.
    """

    hits: int = 0
    misses: int = 0
    quarantined: int = 0
    seconds_saved: float = 0.0
    bytes: int = 0

    def since(self, before: "Statistics") -> "Statistics":
        """Return the counts since earlier statistics of the same cache, with the current `bytes`."""
        return Statistics(
            self.hits - before.hits,
            self.misses - before.misses,
            self.quarantined - before.quarantined,
            self.seconds_saved - before.seconds_saved,
            self.bytes,
        )


def warn(message: str) -> None:
    """Warn that something is not recalled or not stored."""
    warnings.warn(CacheWarning(message), stacklevel=3)
