"""When a sweep has done enough before its trials are: a limit on time, or a front that has stopped growing."""

import math
import time

from sweeps.config import Config
from sweeps.errors import SweepError
from sweeps.records import Record


class Stopping:
    """Follows a study and says when one of its limits is reached.

    Args:
        config: its `stop` names the limits.

    Raises:
        SweepError: a limit out of its range.
    """

    def __init__(self, config: Config) -> None:
        stop = self._stop = config.stop
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
        self._hypervolumes: list[float] = []

    def finished(self, record: Record, hypervolume: float) -> None:
        """Count a finished trial and the hypervolume after it."""
        self._trained += record.seconds
        if record.state != "interrupted":
            self._hypervolumes.append(hypervolume)

    @property
    def reason(self) -> str | None:
        """Why the sweep should end now, or None."""
        stop = self._stop
        if stop.seconds is not None and (spent := time.monotonic() - self._started) >= stop.seconds:
            return f"{spent:.0f} s have passed (stop.seconds={stop.seconds:g})"
        if stop.training_seconds is not None and self._trained >= stop.training_seconds:
            return f"trials took {self._trained:.0f} s in all (stop.training_seconds={stop.training_seconds:g})"
        if stop.window is not None and len(self._hypervolumes) > stop.window:
            gain = self._hypervolumes[-1] - self._hypervolumes[-1 - stop.window]
            if gain < stop.gain:
                return f"the last {stop.window} trials raised the hypervolume by {gain:.2g} (stop.gain={stop.gain:g})"
        return None
