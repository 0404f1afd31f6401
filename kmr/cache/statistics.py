"""What a cache did for a process, and how it says that it could not."""

import warnings
from dataclasses import dataclass


class CacheWarning(UserWarning):
    """The cache could not do its part; results are right all the same, and computed instead of recalled."""


@dataclass(frozen=True)
class Statistics:
    """What a cache has done for this process.

    `seconds_saved` is what the hits took to compute less what they took to recall; `bytes` is what the folder holds.
    """

    hits: int = 0
    misses: int = 0
    quarantined: int = 0
    seconds_saved: float = 0.0
    bytes: int = 0

    def since(self, before: "Statistics") -> "Statistics":
        """Return what was done after an earlier look at the same cache; `bytes` is what there is now."""
        return Statistics(
            self.hits - before.hits,
            self.misses - before.misses,
            self.quarantined - before.quarantined,
            self.seconds_saved - before.seconds_saved,
            self.bytes,
        )


def warn(message: str) -> None:
    """Warn that something is not recalled or not kept."""
    warnings.warn(CacheWarning(message), stacklevel=3)
