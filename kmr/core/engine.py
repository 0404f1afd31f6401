"""Algorithms 1 and 10: turn knobs under a budget, or along a fixed sequence, and keep every model on the way.

`budgeted_kmr` lets a policy choose each move and stops at the budget. `run_sequence` applies given moves one after the
other. Both take the same step: apply the rule, fine-tune, measure, record where the time went.
"""

import math
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal, Protocol, TypeAlias

from torch import nn

from kmr.core.errors import CostRose, KMRError, NotApplicable, RuleWarning
from kmr.core.instantiation import Instantiation
from kmr.core.meter import Reading, Readings, measure
from kmr.core.policy import Policy
from kmr.core.trace import Move, Seconds, Step, Trace, TransformationSequence

FineTune: TypeAlias = Callable[[nn.Module], nn.Module]
"""FINETUNE(M′, D): recover quality without raising a cost; may train the given model in place."""

OnStep: TypeAlias = Callable[[Step, nn.Module], None]
"""Told of every accepted step, the base model first, with the model it made, as soon as it is measured."""


class Prefixes(Protocol):
    """Recalls what beginnings of a sequence led to, so that no move is taken twice (`kmr.cache.PrefixCache` does)."""

    def reach(
        self,
        base: nn.Module,
        instantiation: Instantiation,
        steps: Sequence[Step],
        move: Move,
        take: Callable[[], tuple[nn.Module, Step]],
    ) -> tuple[nn.Module, Step]:
        """Return the model and step that a move after these steps leads to, calling `take` only where it is unknown."""


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
        clock = _Clock()
        move = policy(model, here.costs, here.qualities)
        if move is None:
            break
        taken = _reach(prefixes, start, trace, model, move, instantiation, finetune, clock, must_lower=budget.cost)
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
        taken = _reach(prefixes, start, trace, model, move, instantiation, finetune, _Clock(), must_lower=None)
        if not taken.step.accepted:
            raise NotApplicable("; ".join(taken.step.notes))
        model, trace = taken.model, trace.add(taken.step)
        _tell(on_step, taken.step, model)
    return Run(model, trace, Outcome.SUCCESS)


def apply_move(model: nn.Module, instantiation: Instantiation, move: Move) -> tuple[nn.Module, tuple[str, ...]]:
    """Apply one move's rule: return the new model and what the rule left undone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuleWarning)
        moved = instantiation.rule_of(move.knob)(model, move.knob, move.value)
    for other in caught:
        if not issubclass(other.category, RuleWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return moved, tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, RuleWarning)))


@dataclass(frozen=True)
class _Taken:
    model: nn.Module
    step: Step


class _Clock:
    """Splits the wall time since it was made into named parts; what no part claims is `other`."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._parts: dict[str, float] = {}

    def skip(self) -> None:
        self._last = time.perf_counter()

    def charge(self, part: str) -> None:
        now = time.perf_counter()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> Seconds:
        whole = time.perf_counter() - self._start
        return Seconds(**self._parts, other=max(0.0, whole - sum(self._parts.values())))


class _Refused(Exception):
    def __init__(self, taken: _Taken) -> None:
        self.taken = taken


def _reach(
    prefixes: Prefixes | None,
    start: nn.Module,
    trace: Trace,
    model: nn.Module,
    move: Move,
    instantiation: Instantiation,
    finetune: FineTune | None,
    clock: _Clock,
    must_lower: str | None,
) -> _Taken:
    """Take a move after those of the trace, or recall what it led to; what is refused is never kept."""
    made: list[_Taken] = []

    def take() -> tuple[nn.Module, Step]:
        made.append(_take(model, move, trace.accepted[-1], instantiation, finetune, clock, must_lower))
        if not made[-1].step.accepted:
            raise _Refused(made[-1])
        return made[-1].model, made[-1].step

    if prefixes is None:
        return _take(model, move, trace.accepted[-1], instantiation, finetune, clock, must_lower)
    try:
        reached, step = prefixes.reach(start, instantiation, trace.accepted[1:], move, take)
    except _Refused as refused:
        return refused.taken
    return _Taken(reached, step if made else replace(step, seconds=clock.seconds()))


def _take(
    model: nn.Module,
    move: Move,
    here: Step,
    instantiation: Instantiation,
    finetune: FineTune | None,
    clock: _Clock,
    must_lower: str | None,
) -> _Taken:
    sequence = here.sequence.then(move)

    def refused(costs: Readings, *notes: str) -> _Taken:
        return _Taken(model, Step(move, sequence, costs, {}, clock.seconds(), accepted=False, notes=notes))

    clock.skip()
    try:
        moved, notes = apply_move(model, instantiation, move)
    except NotApplicable as reason:
        clock.charge("rule")
        why = str(reason)
        for named in (move.knob, f"{move.knob}={move.value}"):  # the rule may have named its knob itself
            why = why.removeprefix(f"{named}: ")
        return refused({}, f"{move}: {why}")
    clock.charge("rule")
    before = measure(moved, instantiation.costs)
    clock.charge("meter")
    if must_lower is not None and before[must_lower].value >= here.costs[must_lower].value:
        saved_nothing = f"{move} leaves {must_lower} at {before[must_lower].value:g}: no progress"
        return refused(before, *notes, saved_nothing)
    costs = before
    if finetune is not None:
        moved = finetune(moved)
        clock.charge("finetune")
        trained = {cost.name for cost in instantiation.costs if cost.trained}
        costs = _after_finetuning(before, measure(moved, instantiation.costs), move, trained)
        if must_lower in trained and costs[must_lower].value >= here.costs[must_lower].value:
            raised = f"{move} and fine-tuning leave {must_lower} at {costs[must_lower].value:g}: no progress"
            return refused(costs, *notes, raised)
    qualities = measure(moved, instantiation.qualities)
    clock.charge("meter")
    doubts = tuple(reading.note for reading in (*costs.values(), *qualities.values()) if reading.note)
    return _Taken(moved, Step(move, sequence, costs, qualities, clock.seconds(), notes=(*notes, *doubts)))


def _after_finetuning(
    before: Readings, after: Readings, move: Move, trained: Collection[str] = ()
) -> dict[str, Reading]:
    """Check that no cost rose; a noisy meter keeps the reading on which the move was accepted if it rose by chance.

    Costs that training changes are what they are after it.
    """
    settled = {}
    for name, reading in after.items():
        if name in trained:
            settled[name] = reading
            continue
        if reading.value > before[name].value and reading.stderr is None:
            raise CostRose(f"fine-tuning after {move} raised {name} from {before[name].value:g} to {reading.value:g}")
        settled[name] = min(reading, before[name], key=lambda r: r.value)
    return settled


def measure_base(model: nn.Module, instantiation: Instantiation) -> Step:
    """Measure M₀: the first step of every run from it, which a caller can make once and hand to each."""
    clock = _Clock()
    costs, qualities = measure(model, instantiation.costs), measure(model, instantiation.qualities)
    clock.charge("meter")
    return Step(None, TransformationSequence(), costs, qualities, clock.seconds())


def _cost(trace: Trace, budget: Budget) -> float:
    return trace.accepted[-1].costs[budget.cost].value


def _tell(on_step: OnStep | None, step: Step, model: nn.Module) -> None:
    if on_step is not None:
        on_step(step, model)
