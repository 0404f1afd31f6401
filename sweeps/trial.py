"""A trial: one vector of the search space, run by the engine, and the points it measured on the way."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from torch import nn

from kmr.cache import keeping
from kmr.core import (
    Budget,
    Move,
    Outcome,
    Reading,
    Step,
    TransformationSequence,
    Value,
    budgeted_kmr,
    run_sequence,
)
from sweeps.build import part
from sweeps.experiment import Experiment
from sweeps.space import search_space, to_sequence


@dataclass(frozen=True)
class Point:
    """One measured model, as the study keeps it: plain values that JSON carries.

    `key` is equal for sequences that lead to the same model (`sweeps.statics`); empty where it is not known.
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
    """What a trial leaves: its points in order (the base model is point 0), and notes on how it went."""

    points: list[Point]
    notes: list[str]
    outcome: str
    seconds: float
    overhead: float


OnPoint: TypeAlias = Callable[[Point, nn.Module], None]


def evaluate(experiment: Experiment, params: Mapping[str, Value], on_point: OnPoint) -> Evaluation:
    """Run a trial.

    Args:
        experiment: the model, its rules and meters.
        params: a knob vector, or the parameters of the policy.
        on_point: told of every model but the base as soon as it is measured, so that a failure later loses nothing.

    Raises:
        NotApplicable: a rule cannot transform the model.
        NonFiniteReading: the model diverged.
    """
    start = time.perf_counter()
    points = [Point.of(0, experiment.base)]

    def on_step(step: Step, model: nn.Module) -> None:
        if step.move is not None:
            points.append(Point.of(len(points), step))
            on_point(points[-1], model)

    told: dict[str, Any] = {
        "finetune": experiment.finetune, "on_step": on_step, "base": experiment.base, "prefixes": experiment.prefixes,
    }  # fmt: skip
    with keeping(experiment.store):
        if experiment.searches_policy:
            budget = _budget(experiment, params)
            policy = _policy(experiment, params, budget)
            told["on_no_progress"] = experiment.config.on_no_progress
            run = budgeted_kmr(experiment.model, experiment.instantiation, policy, budget, **told)
        else:
            sequence = to_sequence(experiment.instantiation, params)
            run = run_sequence(experiment.model, experiment.instantiation, sequence, **told)
    seconds = time.perf_counter() - start
    notes = [note for step in run.trace if not step.accepted for note in step.notes]
    if run.outcome is Outcome.FAILURE:
        notes.append("the policy did not reach its budget")
    parts = sum(sum(asdict(s.seconds).values()) for s in run.trace if s.move is not None)
    return Evaluation(points, notes, run.outcome.value, seconds, max(0.0, seconds - parts))


def rebuild(experiment: Experiment, sequence: TransformationSequence) -> nn.Module:
    """Make the model of a point again: the same moves and seed give the same model."""
    with keeping(experiment.store):
        run = run_sequence(
            experiment.model, experiment.instantiation, sequence,
            finetune=experiment.finetune, base=experiment.base, prefixes=experiment.prefixes,
        )  # fmt: skip
    return run.model


def _budget(experiment: Experiment, params: Mapping[str, Value]) -> Budget:
    cost = next(meter.name for meter in experiment.objectives if meter.direction == "minimize")
    whole = experiment.base.costs[cost].value
    share = params.get("budget")
    limit = experiment.config.budget.get(cost, 0.0) if share is None else float(share) * whole
    return Budget(cost, limit, experiment.config.policy_max_moves)


def _policy(experiment: Experiment, params: Mapping[str, Value], budget: Budget) -> Any:
    settings = {name: value for name, value in params.items() if name != "budget"}
    config = {**experiment.plain["policy"], **settings}
    return part(
        "policy",
        config,
        experiment.config.trusted_modules,
        instantiation=experiment.instantiation,
        budget=budget,
        space=search_space(experiment.instantiation, experiment.plain.get("space", {})),
        seed=experiment.config.seed,
    )
