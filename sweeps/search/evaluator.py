"""The work of a search over a user's function: it takes a vector and returns readings."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

from kmr.core import Direction, Reading
from sweeps.errors import SweepError, describe
from sweeps.search.execution.halving import Halving, Settings
from sweeps.search.execution.rungs import RungStore
from sweeps.search.execution.work import Job, Tell
from sweeps.search.problem import Params
from sweeps.search.study.point import Ended, Measured, Point
from sweeps.search.tables import Readings, value_of

Evaluate: TypeAlias = Callable[[Params], Readings] | Callable[[Params, float], Readings]
"""Returns the readings of a vector; with fidelities, at a share of what a full evaluation takes."""


class Unusable(Exception):
    """What a function returned is no result; the message says why."""


@dataclass(frozen=True)
class FunctionWork:
    """Evaluates vectors.

    Args:
        evaluate: the function; with `halving`, it is called for every fidelity in turn until the trial is stopped.
        objectives: the direction of each.
        limited: meters that must be read beside them.
        halving: how trials are stopped at a low fidelity.
        folder: where the decisions on that are kept and shared; without one they are this process's alone.
    """

    evaluate: Callable[..., Readings]
    objectives: Mapping[str, Direction]
    limited: Sequence[str] = ()
    halving: Settings | None = None
    folder: Path | None = None

    @property
    def recipe(self) -> Callable[[], "FunctionWork"]:
        return partial(
            FunctionWork, self.evaluate, dict(self.objectives), tuple(self.limited), self.halving, self.folder
        )

    def __call__(self, job: Job, tell: Tell) -> Ended:
        started = time.perf_counter()

        def ended(state: str, error: str | None = None) -> Ended:
            return Ended(job.number, state, error, time.perf_counter() - started)

        try:
            for rung, share in enumerate(self._shares):
                given = (dict(job.params), *([] if self.halving is None else [share]))
                point = self.point(self.evaluate(*given), job.static, time.perf_counter() - started)
                if share < 1 and (reason := self._stops(job.number, rung, point)) is not None:
                    return ended("pruned", f"stopped at a fidelity of {share:g}: {reason}")
        except Unusable as error:
            return ended("failed", str(error))
        except Exception as error:  # a user's function may raise anything, and no other trial is to blame
            return ended("failed", describe(error))
        tell(Measured(job.number, point))
        return ended("complete")

    def point(self, readings: Readings, static: Mapping[str, float], seconds: float) -> Point:
        """Return what was measured as a point of the study; readings that are no objective or limit need not be finite.

        Raises:
            Unusable: a reading is missing, or not a finite number.
        """
        if not hasattr(readings, "items"):
            raise Unusable(f"evaluate returned a {type(readings).__name__}, not readings by name")
        found: dict[str, float | Reading] = {**static, **dict(readings.items())}
        wanted = dict.fromkeys((*self.objectives, *self.limited))
        if missing := [name for name in wanted if name not in found]:
            raise Unusable(f"no reading of {', '.join(missing)}: evaluate gave {sorted(found)}")
        values = {name: _number(name, reading) for name, reading in found.items()}
        if strange := [name for name in wanted if not math.isfinite(values[name])]:
            raise Unusable(", ".join(f"{name} is {values[name]}" for name in strange))
        kept: dict[str, list[float | None]] = {
            name: [values[name], _stderr(name, reading)]
            for name, reading in found.items()
            if math.isfinite(values[name])
        }
        return Point(1, [], kept, {"evaluate": seconds})

    @cached_property
    def _rungs(self) -> Halving | None:
        if self.halving is None:
            return None
        halving = self.halving.halving(list(self.objectives.values()))
        return halving if self.folder is None else halving.restore(RungStore(self.folder))

    @property
    def _shares(self) -> Sequence[float]:
        return (1.0,) if self._rungs is None else self._rungs.fidelities

    def _stops(self, number: int, rung: int, point: Point) -> str | None:
        """Return why a trial is not worth going on, or None."""
        assert self._rungs is not None
        errors = [point.readings[name][1] for name in self.objectives]
        decision = self._rungs.report(number, rung, point.values(list(self.objectives)), errors)
        return decision.reason if decision.stops else None


def _number(name: str, reading: float | Reading) -> float:
    try:
        return value_of(reading)
    except (TypeError, ValueError) as error:
        raise Unusable(f"{name} is {reading!r}, not a number") from error


def _stderr(name: str, reading: float | Reading) -> float | None:
    given = reading.stderr if isinstance(reading, Reading) else None
    stderr = None if given is None else _number(f"the standard error of {name}", given)
    return stderr if stderr is not None and math.isfinite(stderr) else None


def halving_of(fidelities: Settings | Sequence[float] | None) -> Settings | None:
    """Return how trials are halved, of the fidelities alone or of all settings.

    Raises:
        SweepError: they do not rise from above 0 to 1, or another setting is out of its range.
    """
    if fidelities is None or isinstance(fidelities, Settings):
        settings = fidelities
    else:
        try:
            settings = Settings(tuple(float(share) for share in fidelities))
        except (TypeError, ValueError) as error:
            raise SweepError(f"fidelities must be rising shares that end in 1, not {fidelities!r}") from error
    if settings is not None:
        settings.halving(["minimize"])
    return settings
