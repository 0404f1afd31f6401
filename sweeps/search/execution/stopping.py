"""When a search has done enough before its trials are: a limit on time, or a front that has stopped growing."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.errors import SweepError
from sweeps.search.study.trial_state import TrialState

if TYPE_CHECKING:
    from sweeps.search.study.record import Record


@dataclass
class Stop:
    """Limits that end a search before its trials are done; None never does."""

    seconds: float | None = None
    """Wall time of this run."""
    training_seconds: float | None = None
    """Time of all trials of the study together."""
    window: int | None = None
    """Ends the search when this many finished trials in a row raised the hypervolume by less than `gain`."""
    gain: float = 0.001
    """See `window`; a share of the box in which the hypervolume is measured."""


class Stopping:
    """Follows a study and says when one of its limits is reached.

    Args:
        stop: the limits.
        gain: tells by how much the last so many finished trials raised the hypervolume, as a share of the box that it
            is measured in.

    Raises:
        SweepError: a limit out of its range.
    """

    def __init__(self, stop: Stop, gain: Callable[[int], float]) -> None:
        self._stop, self._gain = stop, gain
        for name in ("seconds", "training_seconds"):
            limit = getattr(stop, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise SweepError(f"stop.{name} must be a number of seconds above 0, not {limit}")
        if stop.window is not None and stop.window < 1:
            raise SweepError(f"stop.window must be at least 1 trial, not {stop.window}")
        if not 0 <= stop.gain < math.inf:
            raise SweepError(f"stop.gain must be at least 0, not {stop.gain}")
        self._started = time.monotonic()
        self._trained = 0.0
        self._finished = 0

    def finished(self, record: "Record") -> None:
        """Count a finished trial."""
        self._trained += record.seconds
        self._finished += record.state != TrialState.RETRIED

    @property
    def reason(self) -> str | None:
        """Why the search should end now, or None."""
        stop = self._stop
        if stop.seconds is not None and (spent := time.monotonic() - self._started) >= stop.seconds:
            return f"{spent:.0f} s have passed (stop.seconds={stop.seconds:g})"
        if stop.training_seconds is not None and self._trained >= stop.training_seconds:
            return f"trials took {self._trained:.0f} s in all (stop.training_seconds={stop.training_seconds:g})"
        if stop.window is not None and self._finished > stop.window:
            gain = self._gain(stop.window)
            if gain < stop.gain:
                return f"the last {stop.window} trials raised the hypervolume by {gain:.2g} (stop.gain={stop.gain:g})"
        return None
