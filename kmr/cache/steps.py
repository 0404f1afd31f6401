"""Steps of a trace and stages of a sequence as JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from kmr.cache.identity import code_of, describe
from kmr.core import (
    Choice,
    FloatRange,
    Instantiation,
    IntRange,
    Knob,
    Move,
    Reading,
    Readings,
    Rule,
    Seconds,
    Step,
    TransformationSequence,
    Value,
)


def stage_of(rule: Rule) -> dict[str, Any]:
    """Describe a rule: its class with the code behind it, and its settings.

    Raises:
        KMRError: a setting cannot be described.
    """
    settings = {field.name: describe(getattr(rule, field.name)) for field in fields(rule)}
    return {"stage": code_of(type(rule)), "settings": settings}


def meters_of(instantiation: Instantiation) -> list[Any]:
    """Describe the meters of an instantiation, in their order.

    Raises:
        KMRError: a meter cannot be described.
    """
    return [describe(meter) for meter in (*instantiation.costs, *instantiation.qualities)]


def canonical(knob: Knob, value: Value) -> Value:
    """Return the canonical form of a value: 8 and 8.0 are the same setting of a knob."""
    knob.check(value)
    match knob.domain:
        case FloatRange():
            return float(value)
        case IntRange():
            return int(value)
        case Choice(values, neutral):
            return next(known for known in (*values, neutral) if known == value)


def made_as_json(steps: Sequence[Step]) -> list[Any]:
    """Return the rules' notes and the seconds of each step as JSON values."""
    return [{"notes": list(step.notes), "seconds": asdict(step.seconds)} for step in steps]


def readings_as_json(steps: Sequence[Step]) -> list[Any]:
    """Return the readings of each step as JSON values."""
    return [{"costs": _plain(step.costs), "qualities": _plain(step.qualities)} for step in steps]


def readings_of(read: Mapping[str, Any]) -> tuple[Readings, Readings]:
    """Return the costs and qualities of a step that `readings_as_json` wrote down."""
    costs, qualities = (
        {name: Reading(value, stderr) for name, (value, stderr) in read[kind].items()}
        for kind in ("costs", "qualities")
    )
    return costs, qualities


def step_of(moves: Sequence[Move], made: Mapping[str, Any], costs: Readings, qualities: Readings) -> Step:
    """Return the step of the last of these moves."""
    return Step(
        moves[-1],
        TransformationSequence(tuple(moves)),
        costs,
        qualities,
        Seconds(**made["seconds"]),
        notes=tuple(made["notes"]),
    )


def _plain(readings: Readings) -> dict[str, list[float | None]]:
    return {name: [reading.value, reading.stderr] for name, reading in readings.items()}
