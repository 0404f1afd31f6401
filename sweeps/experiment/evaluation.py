"""Evaluation of one trial: the engine runs a vector and measures a point after every move."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias, cast

from torch import nn

from kmr.cache import keeping
from kmr.core import Budget, Outcome, Step, TransformationSequence, Value, budgeted_kmr
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.instantiate import part
from sweeps.experiment.knob_space import search_space, to_sequence
from sweeps.search.study.point import Evaluation, Point

OnPoint: TypeAlias = Callable[[Point, nn.Module], None]


def evaluate(experiment: Experiment, params: Mapping[str, Value], on_point: OnPoint) -> Evaluation:
    """Evaluate one trial.

    Args:
        experiment: the model, its rules and meters.
        params: a knob vector, or the parameters of the policy.
        on_point: called for every model except the base as soon as it is measured, so that a later failure loses none.

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

    mine = experiment.compression
    if experiment.searches_policy:
        budget = _budget(experiment, params)
        policy = _policy(experiment, params, budget)
        with keeping(mine.store):
            run = budgeted_kmr(
                mine.model, mine.instantiation, policy, budget, finetune=mine.finetune, base=mine.base,
                on_no_progress=cast(Any, experiment.config.on_no_progress), on_step=on_step, prefixes=mine.prefixes,
            )  # fmt: skip
    else:
        run = mine.make(to_sequence(mine.instantiation, params), on_step)
    seconds = time.perf_counter() - start
    notes = [note for step in run.trace if not step.accepted for note in step.notes]
    if run.outcome is Outcome.FAILURE:
        notes.append("the policy did not reach its budget")
    parts = sum(sum(asdict(s.seconds).values()) for s in run.trace if s.move is not None)
    return Evaluation(points, notes, max(0.0, seconds - parts))


def rebuild(experiment: Experiment, sequence: TransformationSequence) -> nn.Module:
    """Rebuild a point's model: the same moves and seed give the same model."""
    return experiment.compression.make(sequence).model


def _budget(experiment: Experiment, params: Mapping[str, Value]) -> Budget:
    cost = next(meter.name for meter in experiment.objectives if meter.kind == "cost")
    whole = experiment.base.costs[cost].value
    share = params.get("budget")
    limit = experiment.config.limits.get(cost, 0.0) if share is None else float(share) * whole
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
