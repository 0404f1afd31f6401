"""Algorithms 1 and 10: turn knobs under a budget, or along a fixed sequence, and keep every model on the way.

`budgeted_kmr` lets a policy choose each move and stops at the budget. `run_sequence` applies given moves one after the
other. Both take the same step: apply the rule, fine-tune, measure, record where the time went.
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
from kmr.core.step import Clock, FineTune, Prefixes, measure_base, reach
from kmr.core.trace import Step, Trace, TransformationSequence

OnStep: TypeAlias = Callable[[Step, nn.Module], None]
"""Told of every accepted step, the base model first, with the model it made, as soon as it is measured."""


@dataclass(frozen=True)
class Budget:
    """The limit B on one cost meter, and the most moves N a run may accept."""

    cost: str
    limit: float
    max_iters: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit) or self.limit < 0:
            raise KMRError(f"budget on {self.cost} must be a number >= 0, not {self.limit}")
        if self.max_iters < 1:
            raise KMRError(f"budget needs max_iters >= 1, not {self.max_iters}")


class Outcome(Enum):
    """How a budgeted run ended; a failure is a result like any other."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True)
class Run:
    """What a run leaves: its last accepted model (on failure the best infeasible one), its trace, its outcome."""

    model: nn.Module
    trace: Trace
    outcome: Outcome


def budgeted_kmr(
    model: nn.Module,
    instantiation: Instantiation,
    policy: Policy,
    budget: Budget,
    *,
    finetune: FineTune | None = None,
    on_no_progress: Literal["break", "next"] = "break",
    on_step: OnStep | None = None,
    base: Step | None = None,
    prefixes: Prefixes | None = None,
) -> Run:
    """Turn knobs until the cost fits the budget (Algorithm 1; on a composed instantiation, Algorithm 10).

    Args:
        model: M₀; it is not changed.
        instantiation: the knobs, their rules and the meters.
        policy: chooses each move; built afresh for this run.
        budget: which cost to bring under which limit, in at most how many accepted moves.
        finetune: recovery after each accepted move; it may not raise a cost.
        on_no_progress: at a move that saves nothing or cannot be applied, stop (`break`, the paper's line 7) or ask the
            policy for another (`next`), at most `max_iters` times in a row.
        on_step: told of every accepted model.
        base: the base model's step, where it has been measured before.
        prefixes: recalls what accepted moves led to in runs under a budget on the same cost, with this base model and
            fine-tuning; a recalled step carries the seconds that recalling it took.

    Raises:
        KMRError: the budget names no cost meter of the instantiation.
        CostRose: fine-tuning raised the budgeted cost.
    """
    if budget.cost not in {cost.name for cost in instantiation.costs}:
        known = ", ".join(cost.name for cost in instantiation.costs) or "none"
        raise KMRError(f"the budget is on {budget.cost}, which is not a cost meter here: {known}")
    if on_no_progress not in ("break", "next"):
        raise KMRError(f"on_no_progress must be break or next, not {on_no_progress!r}")
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
    finetune: FineTune | None = None,
    on_step: OnStep | None = None,
    base: Step | None = None,
    prefixes: Prefixes | None = None,
) -> Run:
    """Apply the moves in order, whatever they do to the cost; every model on the way is measured and recorded.

    Moves at a knob's neutral value are identities and are left out. `base` is the base model's step where it has been
    measured before. `prefixes` recalls the models that moves led to before, made with this base model and fine-tuning;
    a recalled step carries the seconds that recalling it took.

    Raises:
        KMRError: a move names an unknown knob or a value outside its domain (checked before anything is applied).
        NotApplicable: a rule cannot transform the model; the steps before it have been told to `on_step`.
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
