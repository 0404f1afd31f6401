"""The dual controller: costs have a price that rises while the budget is exceeded (paper, section 3.4)."""

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
"""Ascents at the first excess to the price of the dearest option, where the step is not given."""


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
    """Maximises Q(M) − λ·max(0, (C(M) − B)/B), with λ raised by dual ascent, λ ← λ + step·(C − B)/B.

    A quality to minimise counts as −Q. Each call ascends once, and then again until some move is worth more than
    staying; so far from the budget the price rises fast and moves are large, near it both are small. Every rung above a
    knob's last one is tried, without fine-tuning. What a move saves below the budget is worth nothing. A rung of a
    range that would jump over the budget has a rival: the value found by bisection whose cost lies within `tolerance`
    below the budget.

    Args:
        instantiation: whose knobs are turned.
        budget: whose limit B, above 0, is approached.
        space: narrower domains by knob name; a knob it leaves out is not turned.
        levels: rungs of each ladder.
        step: of the ascent, in units of quality; by default such that ten ascents would pay for the dearest move there
            is at first, whatever the unit of the quality.
        tolerance: how far below the budget, as a share of it, is near enough.
        bisections: halvings of the way between two rungs at most.
        probe: the quality meters of which the first judges; on a small split they make candidates cheap. By default
            the instantiation's own.

    Raises:
        KMRError: a limit of 0, no quality meter, or a step or tolerance out of range.
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
            raise KMRError(f"the dual policy needs a budget above 0, not {budget.limit}: its excess is relative")
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
            raise KMRError("the dual policy needs a quality meter")
        self._quality = qualities[0]
        self._domains = domains(instantiation, space)
        self._ladders = ladders(instantiation, space, levels)
        self._places = dict.fromkeys(self._ladders, 0)
        self._step = step
        self._tolerance = tolerance
        self._bisections = bisections
        self._refused: set[Move] = set()
        self.price = 0.0
        """λ: the quality that a relative excess of 1 is worth now."""

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        cost = costs[self._cost.name].value
        excess = self._excess(cost)
        options = list(self._options(model, cost))
        if not options or excess <= 0:
            return None
        if self._step is None:
            dearest = max(option.price for option in options)
            self._step = dearest / (_ASCENTS * excess) if dearest > 0 else 1.0
        ascent = self._step * excess
        missing = min(option.price for option in options) - (self.price + ascent)
        self.price += ascent * (1 + max(0, math.ceil(missing / ascent)))
        # Of equals, the one that changes the model least.
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
            # From the weakest value on, whatever was turned before: some rules count from the model they find.
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
        """Look between a value above the budget and one that fits for one that fits more closely."""
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
    """Return the value of a domain nearest to its neutral one; a choice has no distances."""
    return domain.neutral if isinstance(domain, Choice) else min(max(domain.neutral, domain.low), domain.high)


def _between(domain: Domain, low: Value, high: Value) -> Value | None:
    """Return the value of a range about halfway between two, or None where there is none."""
    if isinstance(domain, Choice):
        return None
    middle = (float(low) + float(high)) / 2
    if domain.step is not None:
        middle = domain.low + domain.step * round((middle - domain.low) / domain.step)
    found = round(middle) if isinstance(domain, IntRange) else round(middle, 10)
    return None if found in (low, high, domain.neutral) else found
