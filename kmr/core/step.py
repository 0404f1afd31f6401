"""One step of a run: a rule, fine-tuning, measurement, and the time each part took."""

import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from torch import nn

from kmr.core.errors import CostRose, NotApplicable, RuleWarning
from kmr.core.instantiation import Instantiation
from kmr.core.meter import Reading, Readings, measure
from kmr.core.rule import Rule
from kmr.core.trace import Move, Seconds, Step, Trace, TransformationSequence

FineTuning: TypeAlias = Callable[[nn.Module], nn.Module]
"""FINETUNE(M′, D): recovers quality without raising a cost; may train the given model in place."""


class Prefixes(Protocol):
    """A cache of the models that beginnings of a sequence led to, so that no move is taken twice.

    `kmr.cache.PrefixCache` implements it.
    """

    def reach(
        self,
        base: nn.Module,
        instantiation: Instantiation,
        steps: Sequence[Step],
        move: Move,
        take: Callable[[], tuple[nn.Module, Step]],
    ) -> tuple[nn.Module, Step]:
        """Return the model and step that a move after these steps leads to; call `take` only if they are not cached."""


def apply_move(
    model: nn.Module, instantiation: Instantiation, move: Move, base: nn.Module | None = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Apply one move's rule; return the new model and the rule's warnings.

    Args:
        model: stays as it is.
        instantiation: has the rule.
        move: the knob and its value.
        base: M₀; where the knob's layers are in it, but no longer in the model, the move is neutral and the model
            itself is returned.

    Raises:
        NotApplicable: the rule cannot transform the model.
    """
    rule = instantiation.rule_of(move.knob)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuleWarning)
        try:
            moved = rule(model, move.knob, move.value)
        except NotApplicable:
            if base is None or not _lost_layers(rule, move.knob, base, model):
                raise
            return model, (f"{move}: an earlier move removed its layers, so that it changes nothing",)
    for other in caught:
        if not issubclass(other.category, RuleWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return moved, tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, RuleWarning)))


def _lost_layers(rule: Rule, name: str, base: nn.Module, model: nn.Module) -> bool:
    """Tell whether a knob governs parameters of the base but none of the model."""
    knob = next(knob for knob in rule.knobs if knob.name == name)

    def governs_any(one: nn.Module) -> bool:
        return any(rule.governs(knob, path.rpartition(".")[0]) for path, _ in one.named_parameters())

    return governs_any(base) and not governs_any(model)


@dataclass(frozen=True)
class Taken:
    """The result of a move: the model after it, and its step."""

    model: nn.Module
    step: Step


class Clock:
    """A stopwatch that splits the wall time since its creation into named parts; the remainder is `other`."""

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
    def __init__(self, taken: Taken) -> None:
        self.taken = taken


def reach(
    prefixes: Prefixes | None,
    start: nn.Module,
    trace: Trace,
    model: nn.Module,
    move: Move,
    instantiation: Instantiation,
    finetune: FineTuning | None,
    clock: Clock,
    must_lower: str | None,
) -> Taken:
    """Take a move after those of the trace, or recall its result; a refused move is never cached."""
    made: list[Taken] = []

    def take() -> tuple[nn.Module, Step]:
        made.append(_take(start, model, move, trace.accepted[-1], instantiation, finetune, clock, must_lower))
        if not made[-1].step.accepted:
            raise _Refused(made[-1])
        return made[-1].model, made[-1].step

    if prefixes is None:
        return _take(start, model, move, trace.accepted[-1], instantiation, finetune, clock, must_lower)
    try:
        reached, step = prefixes.reach(start, instantiation, trace.accepted[1:], move, take)
    except _Refused as refused:
        return refused.taken
    return Taken(reached, step if made else replace(step, seconds=clock.seconds()))


def _take(
    base: nn.Module,
    model: nn.Module,
    move: Move,
    here: Step,
    instantiation: Instantiation,
    finetune: FineTuning | None,
    clock: Clock,
    must_lower: str | None,
) -> Taken:
    sequence = here.sequence.then(move)

    def refused(costs: Readings, *notes: str) -> Taken:
        return Taken(model, Step(move, sequence, costs, {}, clock.seconds(), accepted=False, notes=notes))

    clock.skip()
    try:
        moved, notes = apply_move(model, instantiation, move, base)
    except NotApplicable as reason:
        clock.charge("rule")
        why = str(reason)
        for named in (move.knob, f"{move.knob}={move.value}"):  # the rule's message may begin with its knob already
            why = why.removeprefix(f"{named}: ")
        return refused({}, f"{move}: {why}")
    clock.charge("rule")
    if moved is model:
        if must_lower is not None:
            return refused(here.costs, *notes)
        return Taken(model, Step(move, sequence, here.costs, here.qualities, clock.seconds(), notes=notes))
    try:
        return _read(moved, notes, move, here, instantiation, finetune, clock, must_lower, refused)
    except (AttributeError, TypeError) as error:
        # Code around a layer may read what its replacement lacks, such as `self.head.weight`.
        if not (replaced := _replaced(model, moved)):
            raise
        return refused({}, *notes, f"{move}: the model does not run without {replaced}, which it reads itself: {error}")


def _read(
    moved: nn.Module,
    notes: tuple[str, ...],
    move: Move,
    here: Step,
    instantiation: Instantiation,
    finetune: FineTuning | None,
    clock: Clock,
    must_lower: str | None,
    refused: Callable[..., Taken],
) -> Taken:
    """Fine-tune and measure a model after a rule."""
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
    sequence = here.sequence.then(move)
    return Taken(moved, Step(move, sequence, costs, qualities, clock.seconds(), notes=(*notes, *doubts)))


def _replaced(before: nn.Module, after: nn.Module) -> str:
    """Return the layers that a rule replaced by modules of another class, a few by name."""
    kinds = {path: type(module).__name__ for path, module in after.named_modules()}
    changed = [path for path, module in before.named_modules() if kinds.get(path) != type(module).__name__ and path]
    return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _after_finetuning(
    before: Readings, after: Readings, move: Move, trained: Collection[str] = ()
) -> dict[str, Reading]:
    """Check that no cost rose; where a noisy reading rose by chance, keep the one on which the move was accepted.

    Costs that training changes keep their reading after it.
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
    """Measure M₀: the first step of every run from it, which a caller can measure once for many runs."""
    clock = Clock()
    costs, qualities = measure(model, instantiation.costs), measure(model, instantiation.qualities)
    clock.charge("meter")
    return Step(None, TransformationSequence(), costs, qualities, clock.seconds())
