"""Algorithms 1 and 10: runs that turn knobs under a budget or along a fixed sequence, and record every model.

`budgeted_kmr` lets a policy choose each move and stops at the budget. `run_sequence` applies given moves in order. Both
take the same step: apply the rule, fine-tune, measure, record the time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from torch import nn

from kmr.core.errors import KMRError, NotApplicable
from kmr.core.instantiation import Instantiation
from kmr.core.policy import Policy
from kmr.core.step import Clock, FineTuning, Prefixes, measure_base, reach
from kmr.core.trace import Step, Trace, TransformationSequence

OnStep: TypeAlias = Callable[[Step, nn.Module], None]
"""A callback for each accepted step, the base model's first: gets the step and its model as soon as it is measured."""


@dataclass(frozen=True)
class Budget:
    """The budget B on one cost meter, and the maximum number N of accepted moves.

    Raises:
        KMRError: the limit is negative or not finite, or `max_iters` < 1.
    """

    cost: str
    limit: float
    max_iters: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit) or self.limit < 0:
            raise KMRError(f"invalid budget on {self.cost}: {self.limit}; give a finite number >= 0")
        if self.max_iters < 1:
            raise KMRError(f"invalid max_iters of the budget on {self.cost}: {self.max_iters}; give at least 1")


class Outcome(Enum):
    """The outcome of a budgeted run; a failure is an ordinary result, not an error."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True)
class Run:
    """The result of a run: its last accepted model (on failure the best infeasible one), trace and outcome."""

    model: nn.Module
    trace: Trace
    outcome: Outcome


def budgeted_kmr(
    model: nn.Module,
    instantiation: Instantiation,
    policy: Policy,
    budget: Budget,
    *,
    finetune: FineTuning | None = None,
    on_no_progress: Literal["break", "next"] = "break",
    on_step: OnStep | None = None,
    base: Step | None = None,
    prefixes: Prefixes | None = None,
) -> Run:
    """Turn knobs until the cost fits the budget (Algorithm 1; on a composed instantiation, Algorithm 10).

    Args:
        model: M₀; it is not changed.
        instantiation: the knobs, their rules and the meters.
        policy: chooses each move; newly built for this run.
        budget: the cost, its limit, and the maximum number of accepted moves.
        finetune: recovery after each accepted move; it may not raise a cost.
        on_no_progress: at a move that saves nothing or cannot be applied, stop (`break`, the paper's line 7) or ask the
            policy for another (`next`), at most `max_iters` times in a row.
        on_step: called with every accepted step and its model.
        base: the base model's step, if it is already measured.
        prefixes: a cache of models that accepted moves led to in runs with the same budgeted cost, base model and
            fine-tuning; a recalled step records the seconds of the recall.

    Raises:
        KMRError: the budget names no cost meter of the instantiation, or `on_no_progress` is neither value.
        CostRose: fine-tuning raised the budgeted cost.
    """
    if budget.cost not in {cost.name for cost in instantiation.costs}:
        known = ", ".join(cost.name for cost in instantiation.costs) or "none"
        raise KMRError(f"the budget names no cost meter: {budget.cost}; choose one of: {known}")
    if on_no_progress not in ("break", "next"):
        raise KMRError(f"invalid on_no_progress: {on_no_progress!r}; choose break or next")
    first = base or measure_base(model, instantiation)
    trace = Trace((first,))
    _tell(on_step, first, model)
    refusals, start = 0, model
    while _cost(trace, budget) > budget.limit and len(trace.accepted) <= budget.max_iters:
        here = trace.accepted[-1]
        clock = Clock()
        move = policy(model, here.costs, here.qualities)
        if move is None:
            break
        taken = reach(prefixes, start, trace, model, move, instantiation, finetune, clock, must_lower=budget.cost)
        trace = trace.add(taken.step)
        if taken.step.accepted:
            model, refusals = taken.model, 0
            _tell(on_step, taken.step, model)
            continue
        refusals += 1
        if on_no_progress == "break" or refusals > budget.max_iters:
            break
        policy.refuse(move)
    reached = _cost(trace, budget) <= budget.limit
    return Run(model, trace, Outcome.SUCCESS if reached else Outcome.FAILURE)


def run_sequence(
    model: nn.Module,
    instantiation: Instantiation,
    sequence: TransformationSequence,
    *,
    finetune: FineTuning | None = None,
    on_step: OnStep | None = None,
    base: Step | None = None,
    prefixes: Prefixes | None = None,
) -> Run:
    """Apply the moves in order, whatever they do to the cost; measure and record every intermediate model.

    Moves at a knob's neutral value are identities and are skipped. `base` is the base model's step, if it is already
    measured. `prefixes` is a cache of models that moves led to with this base model and fine-tuning; a recalled step
    records the seconds of the recall.

    Raises:
        KMRError: a move names an unknown knob or a value outside its domain (checked before any move is applied).
        NotApplicable: a rule cannot transform the model; `on_step` has been called for the steps before it.
    """
    for move in sequence:
        instantiation.knob(move.knob).check(move.value)
    first = base or measure_base(model, instantiation)
    trace = Trace((first,))
    _tell(on_step, first, model)
    start = model
    for move in sequence:
        if instantiation.knob(move.knob).is_neutral(move.value):
            continue
        taken = reach(prefixes, start, trace, model, move, instantiation, finetune, Clock(), must_lower=None)
        if not taken.step.accepted:
            raise NotApplicable("; ".join(taken.step.notes))
        model, trace = taken.model, trace.add(taken.step)
        _tell(on_step, taken.step, model)
    return Run(model, trace, Outcome.SUCCESS)


def _cost(trace: Trace, budget: Budget) -> float:
    return trace.accepted[-1].costs[budget.cost].value


def _tell(on_step: OnStep | None, step: Step, model: nn.Module) -> None:
    if on_step is not None:
        on_step(step, model)
