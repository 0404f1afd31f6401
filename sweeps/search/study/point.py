"""What a trial measures, as the study keeps it: plain values that JSON carries."""

from dataclasses import asdict, dataclass, field
from typing import Any

from kmr.core import Move, Reading, Step, TransformationSequence


@dataclass(frozen=True)
class Point:
    """One measured model, as the study keeps it: plain values that JSON carries.

    `key` is equal for sequences that lead to the same model (`sweeps.experiment.static_costs`); empty where it is not
    known.
    """

    step: int
    sequence: list[list[Any]]
    readings: dict[str, list[float | None]]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    key: str = ""

    @classmethod
    def of(cls, index: int, step: Step) -> "Point":
        """Make the point of an engine's step."""
        return cls(
            index,
            [[move.knob, move.value] for move in step.sequence],
            {name: [reading.value, reading.stderr] for name, reading in step.readings.items()},
            asdict(step.seconds),
            list(step.notes),
        )

    @property
    def moves(self) -> TransformationSequence:
        """The sequence that made the model."""
        return TransformationSequence(tuple(Move(knob, value) for knob, value in self.sequence))

    def to_readings(self) -> dict[str, Reading]:
        """The readings as the engine gives them."""
        return {name: Reading(float(value or 0.0), stderr) for name, (value, stderr) in self.readings.items()}

    def values(self, objectives: list[str]) -> list[float]:
        """The readings of the objectives, in their order."""
        return [float(self.readings[name][0] or 0.0) for name in objectives]


@dataclass(frozen=True)
class Recalled:
    """What a trial had from the prefix cache: moves recalled, moves taken, and seconds that the former saved.

    The points' own seconds hold what recalling took, not what was saved.
    """

    hits: int = 0
    misses: int = 0
    seconds_saved: float = 0.0

    def __add__(self, other: "Recalled") -> "Recalled":
        return Recalled(self.hits + other.hits, self.misses + other.misses, self.seconds_saved + other.seconds_saved)

    def __str__(self) -> str:
        return (
            f"{self.hits} of {self.hits + self.misses} moves recalled from the cache, {self.seconds_saved:.0f} s saved"
        )


NOTHING_RECALLED = Recalled()


@dataclass(frozen=True)
class Evaluation:
    """What a trial leaves: its points in order (the base model is point 0), notes, and the seconds of the engine."""

    points: list[Point]
    notes: list[str]
    overhead: float
