"""The work of a search over a user's function: it takes a vector and returns readings."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from kmr.core import Direction, Reading
from sweeps.errors import SweepError, describe
from sweeps.search.execution.halving import Halving
from sweeps.search.execution.work import Job, Tell
from sweeps.search.problem import Params
from sweeps.search.study.point import Ended, MeasuredModel, Point
from sweeps.search.study.trial_state import TrialState
from sweeps.search.tables import GivenReadings, value_of

Evaluate: TypeAlias = Callable[[Params], GivenReadings] | Callable[[Params, float], GivenReadings]
"""Function from a vector to its readings; with fidelities, the second argument is the share of a full evaluation."""


class Unusable(Exception):
    """Error of a function's return value that is not a result; the message gives the reason."""


@dataclass(frozen=True)
class FunctionWork:
    """Work that evaluates vectors with a user's function.

    Args:
        evaluate: the function; with `fidelities` it is called at each in turn until the trial is stopped early.
        objectives: the direction of each objective.
        limited: meters with a limit, which must be read too.
        fidelities: rising shares of a full evaluation, ending in 1; empty if every evaluation is a full one.
    """

    evaluate: Callable[..., GivenReadings]
    objectives: Mapping[str, Direction]
    limited: Sequence[str] = ()
    fidelities: Sequence[float] = ()

    @property
    def recipe(self) -> Callable[[], "FunctionWork"]:
        return partial(FunctionWork, self.evaluate, dict(self.objectives), tuple(self.limited), tuple(self.fidelities))

    def __call__(self, job: Job, tell: Tell) -> Ended:
        started = time.perf_counter()

        def ended(state: TrialState, error: str | None = None, low: Point | None = None) -> Ended:
            return Ended(job.number, state, error, time.perf_counter() - started, low=low)

        share = self.fidelities[job.rung : job.rung + 1]
        try:
            readings = self.evaluate(dict(job.params), *share)
            point = self.point(readings, job.static, time.perf_counter() - started)
        except Unusable as error:
            return ended(TrialState.FAILED, str(error))
        except Exception as error:  # a user's function may raise anything; only this trial fails
            return ended(TrialState.FAILED, describe(error))
        if job.rung < len(self.fidelities) - 1:
            return ended(TrialState.RUNNING, low=point)
        tell(MeasuredModel(job.number, point))
        return ended(TrialState.COMPLETE)

    def point(self, readings: GivenReadings, static: Mapping[str, float], seconds: float) -> Point:
        """Convert readings to a point of the study; only objectives and limited meters must be finite.

        Raises:
            Unusable: a required reading is missing or is not a finite number.
        """
        if not hasattr(readings, "items"):
            raise Unusable(f"evaluate returned a {type(readings).__name__}: return a mapping from meter to reading")
        found: dict[str, float | Reading] = {**static, **dict(readings.items())}
        wanted = dict.fromkeys((*self.objectives, *self.limited))
        if missing := [name for name in wanted if name not in found]:
            raise Unusable(f"no reading of {', '.join(missing)}: evaluate returned {sorted(found)}")
        values = {name: _number(name, reading) for name, reading in found.items()}
        if strange := [name for name in wanted if not math.isfinite(values[name])]:
            raise Unusable(", ".join(f"{name} is {values[name]}" for name in strange))
        kept: dict[str, list[float | None]] = {
            name: [values[name], _stderr(name, reading)]
            for name, reading in found.items()
            if math.isfinite(values[name])
        }
        return Point(1, [], kept, {"evaluate": seconds})


def _number(name: str, reading: float | Reading) -> float:
    try:
        return value_of(reading)
    except (TypeError, ValueError) as error:
        raise Unusable(f"{name} is {reading!r}, not a number") from error


def _stderr(name: str, reading: float | Reading) -> float | None:
    given = reading.stderr if isinstance(reading, Reading) else None
    stderr = None if given is None else _number(f"the standard error of {name}", given)
    if stderr is not None and stderr < 0:
        raise Unusable(f"the standard error of {name} is {stderr:g}, which is negative")
    return stderr if stderr is not None and math.isfinite(stderr) else None


def halving_of(fidelities: Halving | Sequence[float] | None) -> Halving | None:
    """Make the halving rule from its fidelities alone, or return the given rule.

    Raises:
        SweepError: the fidelities do not rise from above 0 to 1, or another setting is out of range.
    """
    if fidelities is None or isinstance(fidelities, Halving):
        return fidelities
    try:
        shares = tuple(float(share) for share in fidelities)
    except (TypeError, ValueError) as error:
        raise SweepError(f"fidelities must be rising shares that end in 1, not {fidelities!r}") from error
    return Halving(shares)
