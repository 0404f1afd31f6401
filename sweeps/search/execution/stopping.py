"""Stopping rules that end a search before all its trials: limits on time, and a front that no longer improves."""

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
    """Limits that end a search before all its trials; None is no limit."""

    seconds: float | None = None
    """Wall time of this run."""
    training_seconds: float | None = None
    """Total duration of all trials of the study."""
    window: int | None = None
    """Finished trials in a row after which the search ends if they raised the hypervolume by less than `gain`."""
    gain: float = 0.001
    """Smallest gain of hypervolume in a window, as a share of the box in which it is measured."""


class Stopping:
    """Check of a study against its limits.

    Args:
        stop: the limits.
        gain: function from a window to the hypervolume gained by the last `window` finished trials, as a share of the
            box in which it is measured.

    Raises:
        SweepError: a limit is out of range.
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
