"""Models made again: the same moves on the same base model, measured again and compared with the study's readings.

A rule or a fine-tuning that draws random numbers of its own, another machine or other code can make another model. Its
readings then stand in every view instead of the measured ones, with a note.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import optuna
from torch import nn

from kmr.core import Meter, Reading, Readings, measure
from sweeps.experiment.evaluation import rebuild
from sweeps.experiment.experiment import Experiment
from sweeps.search.study.attributes import LAYERS, NOISE, PROFILE, REMADE, TEST, forget_point
from sweeps.search.study.point import Point, identifier
from sweeps.search.study.record import Record

_TIMED = ("s", "ms", "us", "J", "mJ")
"""Units of readings that differ from one measurement to the next."""


class Agreement(StrEnum):
    """Agreement of a second reading with the first.

    A timing is not compared. Other readings are the same, or a quality differs by rounding or within its standard
    error. Anything else differs.
    """

    SAME = "same"
    ROUNDING = "differs in the last digits"
    TIMING = "a timing"
    WITHIN_NOISE = "differs within its standard error"
    DIFFERS = "differs"


def compare(meter: Meter, first: Reading, again: Reading) -> Agreement:
    """Compare two readings of one meter."""
    if first.value == again.value:
        return Agreement.SAME
    if meter.unit.partition("/")[0] in _TIMED:
        return Agreement.TIMING
    if math.isclose(first.value, again.value, rel_tol=1e-6, abs_tol=1e-9) and meter.kind == "quality":
        return Agreement.ROUNDING
    noise = max(first.stderr or 0.0, again.stderr or 0.0)
    within = meter.kind == "quality" and abs(first.value - again.value) <= noise
    return Agreement.WITHIN_NOISE if within else Agreement.DIFFERS


@dataclass(frozen=True)
class Remade:
    """The readings of a model made again, by meter, and the meters that differ: all, and those beyond noise."""

    readings: dict[str, list[float | None]]
    differing: list[str]
    beyond_noise: list[str]

    def note(self, first: Point) -> str:
        """Say how the model differs from the one measured first."""
        named = self.beyond_noise or self.differing
        shown = [f"{name} {_number(self.readings[name])}, first {_number(first.readings[name])}" for name in named[:4]]
        more = [f"{len(named) - 4} more"] if len(named) > 4 else []
        how = "as another model" if self.beyond_noise else "with readings that differ within their standard error"
        return f"made again {how}: {'; '.join([*shown, *more])}"

    def instead_of(self, first: Point) -> Point:
        """Return the point with the readings of the model made again."""
        return replace(first, readings={**first.readings, **self.readings}, notes=[*first.notes, self.note(first)])


def remake(
    experiment: Experiment, first: Point, meters: Sequence[Meter] | None = None
) -> tuple[nn.Module, Remade | None]:
    """Make a point's model again and measure it; return the model, and its readings if they differ.

    Args:
        experiment: the experiment that made the point.
        first: the point as it was measured.
        meters: the meters to read; all by default.
    """
    model = rebuild(experiment, first.moves)
    instantiation = experiment.instantiation
    meters = (*instantiation.costs, *instantiation.qualities) if meters is None else meters
    again = measure(model, meters)
    return model, differences(meters, first.to_readings(), again)


def differences(meters: Sequence[Meter], first: Readings, again: Readings) -> Remade | None:
    """Return the second readings with the meters that differ; None if there are none."""
    found = {meter.name: compare(meter, first[meter.name], again[meter.name]) for meter in meters}
    differing = [name for name, how in found.items() if how in (Agreement.WITHIN_NOISE, Agreement.DIFFERS)]
    if not differing:
        return None
    readings = {name: [reading.value, reading.stderr] for name, reading in again.items()}
    return Remade(readings, differing, [name for name in differing if found[name] == Agreement.DIFFERS])


def kept_remade(study: optuna.Study) -> dict[str, Remade]:
    """Return the stored readings of models made again, by point."""
    return {name: Remade(**kept) for name, kept in study.user_attrs.get(REMADE, {}).items()}


def keep_remade(study: optuna.Study, remade: Mapping[str, Remade]) -> None:
    """Store the readings of models made again; what was measured of their first models besides is forgotten."""
    known = kept_remade(study)
    if known == remade:
        return
    study.set_user_attr(REMADE, {name: asdict(made) for name, made in remade.items()})
    for name in {*known, *remade}:
        if known.get(name) != remade.get(name):
            forget_point(study, name, (TEST, NOISE, LAYERS, PROFILE))


def with_remade(record: Record, remade: Mapping[str, Remade]) -> Record:
    """Return a record whose points have the readings of the models made again."""
    names = [identifier(record.number, point.step) for point in record.points]
    if not any(name in remade for name in names):
        return record
    points = (
        remade[name].instead_of(point) if name in remade else point
        for name, point in zip(names, record.points, strict=True)
    )
    return replace(record, points=tuple(points))


def _number(reading: Sequence[Any]) -> str:
    value, stderr = reading
    return f"{value:.6g}" if stderr is None else f"{value:.4f} ± {stderr:.4f}"
