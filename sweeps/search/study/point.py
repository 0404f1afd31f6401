"""What a trial measures, as the study keeps it: plain values that JSON carries."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kmr.core import Move, Reading, Step, TransformationSequence
from sweeps.search.study.trial_state import TrialState


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


@dataclass(frozen=True)
class MeasuredModel:
    """A model was measured; `staged` is its artifact where it may join the front, `problem` why it has none."""

    number: int
    point: Point
    staged: Path | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Ended:
    """End of a job.

    Args:
        number: of the trial.
        state: `complete`, and the trial's result is the last model it measured; `failed` or `infeasible`; `retried`
            where the process that did it died; `running` where it was measured at a low fidelity, and whoever drives
            the study decides whether it goes on.
        error: why it is not complete.
        seconds: it took.
        overhead: of those, what neither rules, fine-tuning nor meters took.
        notes: on how it went.
        recalled: what it had from the prefix cache.
        low: what it measured at a low fidelity.
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
        object.__setattr__(self, "state", TrialState(self.state))  # executors of a user's own give the word


def identifier(trial: int, step: int) -> str:
    """Return a point's name: its trial and its step, or `base`."""
    return "base" if trial < 0 else f"{trial}.{step}"
