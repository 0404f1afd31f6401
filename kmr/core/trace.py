"""Moves, sequences of moves, and the trace of a run (Definition 4)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from kmr.core.domain import Value
from kmr.core.meter import Readings


@dataclass(frozen=True)
class Move:
    """A knob and the value it is turned to."""

    knob: str
    value: Value

    def __str__(self) -> str:
        return f"{self.knob}={self.value:.4g}" if isinstance(self.value, float) else f"{self.knob}={self.value}"


@dataclass(frozen=True)
class TransformationSequence:
    """An ordered list of moves from M₀ to a model."""

    moves: tuple[Move, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "moves", tuple(self.moves))

    def __iter__(self) -> Iterator[Move]:
        return iter(self.moves)

    def __len__(self) -> int:
        return len(self.moves)

    def then(self, move: Move) -> "TransformationSequence":
        """Return the sequence with one more move at its end."""
        return TransformationSequence((*self.moves, move))

    def __str__(self) -> str:
        return " → ".join(map(str, self.moves)) or "base model"


@dataclass(frozen=True)
class Seconds:
    """The wall time of a step by part, in seconds: τ_rule, τ_ft, and τ_over split into meters and everything else."""

    rule: float = 0.0
    finetune: float = 0.0
    meter: float = 0.0
    other: float = 0.0


@dataclass(frozen=True)
class Step:
    """One evaluated model of a run: the sequence that made it, its readings, and the time of each part.

    `move` is None for the base model. A refused move (no cost saved, or not applicable) has `accepted` False and the
    reason in `notes`; its readings are those of the costs alone, or empty.
    """

    move: Move | None
    sequence: TransformationSequence
    costs: Readings
    qualities: Readings
    seconds: Seconds = field(default_factory=Seconds, compare=False)
    accepted: bool = True
    notes: tuple[str, ...] = ()

    @property
    def readings(self) -> Readings:
        """All readings, costs first."""
        return {**self.costs, **self.qualities}


@dataclass(frozen=True)
class Trace:
    """The steps of a run in order, the base model first."""

    steps: tuple[Step, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, step: Step) -> "Trace":
        """Return the trace with one more step at its end."""
        return Trace((*self.steps, step))

    @property
    def accepted(self) -> tuple[Step, ...]:
        """The accepted steps: each is a (cost, quality) point of its own."""
        return tuple(step for step in self.steps if step.accepted)

    @property
    def sequence(self) -> TransformationSequence:
        """The accepted moves; replaying them gives the run's model."""
        return self.accepted[-1].sequence if self.accepted else TransformationSequence()
