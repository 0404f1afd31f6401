"""The dual controller, whose price on cost rises while the budget is exceeded (paper, section 3.4)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from kmr.core import (
    Budget,
    Choice,
    Domain,
    Instantiation,
    IntRange,
    KMRError,
    Move,
    NonFiniteReading,
    NotApplicable,
    Policy,
    Quality,
    Readings,
    Value,
    apply_move,
)
from kmr.policies.ladder import domains, ladders

_ASCENTS = 10
"""Ascents at the first excess that reach the price of the most expensive option, with the default step."""


@dataclass(frozen=True)
class _Option:
    move: Move
    place: int
    cost: float
    lost: float
    relief: float

    @property
    def price(self) -> float:
        return self.lost / self.relief


@final
class Dual(Policy):
    """Policy that maximises Q(M) − λ·max(0, (C(M) − B)/B) and raises λ by dual ascent, λ ← λ + step·(C − B)/B.

    A quality to minimise counts as −Q. Each call ascends once, and then again until some move is worth more than
    staying. Far from the budget the price therefore rises fast and moves are large; near it both are small. Every rung
    above a knob's last one is tried, without fine-tuning. A saving below the budget is worth nothing. For a rung of a
    range that would jump over the budget there is an alternative: the value found by bisection whose cost lies within
    `tolerance` below the budget.

    Args:
        instantiation: the instantiation whose knobs are turned.
        budget: the budget, whose limit B is above 0.
        space: narrower domains by knob name; a knob missing from it is not turned.
        levels: rungs of each ladder.
        step: step of the ascent, in units of quality; by default ten ascents reach the price of the most expensive move
            available at first.
        tolerance: accepted distance below the budget, as a share of it.
        bisections: most bisection steps between two rungs.
        probe: quality meters, of which the first judges; a small split makes candidates cheap. By default those of the
            instantiation.

    Raises:
        KMRError: the limit is 0, there is no quality meter, or the step, tolerance or bisections are out of range.
    """

    def __init__(
        self,
        instantiation: Instantiation,
        budget: Budget,
        space: Mapping[str, Domain] | None = None,
        *,
        levels: int = 5,
        step: float | None = None,
        tolerance: float = 0.02,
        bisections: int = 12,
        probe: Sequence[Quality] | None = None,
    ) -> None:
        if not budget.limit > 0:
            raise KMRError(f"the dual policy needs a budget above 0, not {budget.limit}: it divides by the budget")
        if step is not None and not (math.isfinite(step) and step > 0):
            raise KMRError(f"the step of the dual policy must be above 0, not {step}")
        if not 0 < tolerance < 1 or bisections < 0:
            raise KMRError(
                f"the dual policy needs a tolerance in (0, 1) and bisections >= 0, not {tolerance} and {bisections}"
            )
        self._instantiation = instantiation
        self._limit = budget.limit
        self._cost = next(cost for cost in instantiation.costs if cost.name == budget.cost)
        qualities = tuple(probe) if probe else instantiation.qualities
        if not qualities:
            raise KMRError("the dual policy needs a quality meter: pass probe, or add one to the instantiation")
        self._quality = qualities[0]
        self._domains = domains(instantiation, space)
        self._ladders = ladders(instantiation, space, levels)
        self._places = dict.fromkeys(self._ladders, 0)
        self._step = step
        self._tolerance = tolerance
        self._bisections = bisections
        self._refused: set[Move] = set()
        self.price = 0.0
        """λ: the present price of a relative excess of 1, in units of quality."""

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        cost = costs[self._cost.name].value
        excess = self._excess(cost)
        options = list(self._options(model, cost))
        if not options or excess <= 0:
            return None
        if self._step is None:
            highest = max(option.price for option in options)
            self._step = highest / (_ASCENTS * excess) if highest > 0 else 1.0
        ascent = self._step * excess
        missing = min(option.price for option in options) - (self.price + ascent)
        self.price += ascent * (1 + max(0, math.ceil(missing / ascent)))
        # Among equals, prefer the option that changes the model least.
        best = max(options, key=lambda option: (self.price * option.relief - option.lost, option.cost))
        knob = best.move.knob
        self._places[knob] = best.place
        return best.move

    def refuse(self, move: Move) -> None:
        self._refused.add(move)

    def _excess(self, cost: float) -> float:
        return max(0.0, (cost - self._limit) / self._limit)

    def _options(self, model: nn.Module, cost: float) -> Iterator[_Option]:
        here, excess = self._quality(model).value, self._excess(cost)
        for knob, climb in self._ladders.items():
            # The range starts at the weakest value, whatever was turned before: some rules count from the given model.
            below = _weakest(self._domains[knob])
            for place in range(self._places[knob], len(climb)):
                move = climb[place]
                found = self._tried(model, move)
                if found is None:
                    continue
                tried = [(move, place + 1, *found)]
                fits = found[1] <= self._limit
                if fits:
                    nearer = self._nearer(model, knob, below, move.value, found[1])
                    tried += [(nearer[0], place, *nearer[1:])] if nearer else []
                for option, next_place, candidate, after in tried:
                    if after >= cost or option in self._refused:
                        continue
                    try:
                        lost = self._quality.lost(here, self._quality(candidate).value)
                    except NonFiniteReading:
                        continue
                    yield _Option(option, next_place, after, lost, excess - self._excess(after))
                if fits:
                    break
                below = move.value

    def _tried(self, model: nn.Module, move: Move) -> tuple[nn.Module, float] | None:
        try:
            candidate, _ = apply_move(model, self._instantiation, move)
            return candidate, self._cost(candidate).value
        except NotApplicable:
            return None

    def _nearer(
        self, model: nn.Module, knob: str, low: Value, high: Value, cost: float
    ) -> tuple[Move, nn.Module, float] | None:
        """Bisect between a value above the budget and one within it for one that meets the budget more closely."""
        found = None
        for _ in range(self._bisections):
            middle = _between(self._domains[knob], low, high)
            if cost >= (1 - self._tolerance) * self._limit or middle is None:
                break
            tried = self._tried(model, Move(knob, middle))
            if tried is None or tried[1] > self._limit:
                low = middle
            else:
                high, cost, found = middle, tried[1], (Move(knob, middle), *tried)
        return found


def _weakest(domain: Domain) -> Value:
    """Return the value of a range nearest to its neutral value, or the neutral value of a choice."""
    return domain.neutral if isinstance(domain, Choice) else min(max(domain.neutral, domain.low), domain.high)


def _between(domain: Domain, low: Value, high: Value) -> Value | None:
    """Return a value of a range about halfway between two others, or None if there is none."""
    if isinstance(domain, Choice):
        return None
    middle = (float(low) + float(high)) / 2
    if domain.step is not None:
        middle = domain.low + domain.step * round((middle - domain.low) / domain.step)
    found = round(middle) if isinstance(domain, IntRange) else round(middle, 10)
    return None if found in (low, high, domain.neutral) else found
