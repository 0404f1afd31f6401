"""Measurements of a trial in the form the study keeps, as plain JSON values."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kmr.core import Move, Reading, Step, TransformationSequence
from sweeps.search.study.trial_state import TrialState


@dataclass(frozen=True)
class Point:
    """Measured model in the form the study keeps, as plain JSON values.

    `key` is equal for sequences that lead to the same model (`sweeps.experiment.static_costs`), and empty if unknown.
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
    """Use of the prefix cache by a trial: hits, misses, and the seconds that hits saved.

    The points' own seconds include the time to recall, not the time saved.
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
    """Result of a trial's evaluation: points in order (the base model is point 0), notes, and the engine's overhead."""

    points: list[Point]
    notes: list[str]
    overhead: float


@dataclass(frozen=True)
class MeasuredModel:
    """Report of a measured model; `staged` is the artifact of a candidate for the front, `problem` why it has none."""

    number: int
    point: Point
    staged: Path | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Ended:
    """End of a job.

    Args:
        number: the trial's number.
        state: `complete` if the trial's result is its last measured model; `failed`; `infeasible`; `retried` if its
            worker died; `running` if it was measured at a low fidelity, so that the driver decides whether it
            continues.
        error: why it is not complete.
        seconds: its duration.
        overhead: the part of the duration outside rules, fine-tuning and meters.
        notes: remarks on the evaluation.
        recalled: its use of the prefix cache.
        low: its values at a low fidelity.
    """

    number: int
    state: TrialState
    error: str | None = None
    seconds: float = 0.0
    overhead: float = 0.0
    notes: tuple[str, ...] = ()
    recalled: Recalled = NOTHING_RECALLED
    low: Point | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", TrialState(self.state))  # a user's executor may pass the state as a string


def identifier(trial: int, step: int) -> str:
    """Return a point's name: its trial and its step, or `base`."""
    return "base" if trial < 0 else f"{trial}.{step}"
