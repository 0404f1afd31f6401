"""Search space: a domain for each parameter, and the distributions Optuna samples from."""

from typing import TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from kmr.core import (
    Choice,
    Domain,
    FloatRange,
    IntRange,
    Value,
)

Space: TypeAlias = dict[str, Domain]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the Optuna distribution of each knob."""
    return {name: distribution(domain) for name, domain in space.items()}


def distribution(domain: Domain) -> BaseDistribution:
    """Return the Optuna distribution of a domain."""
    match domain:
        case FloatRange(low, high, _, step, log):
            return FloatDistribution(low, high, step=step, log=log)
        case IntRange(low, high, _, step, log):
            return IntDistribution(low, high, step=step, log=log)
        case Choice(values):
            return CategoricalDistribution(values)


def grid(space: Space, points: int = 5) -> dict[str, list[Value]]:
    """Return every value of each knob; a range without a step is sampled at this many points."""
    values: dict[str, list[Value]] = {}
    for name, domain in space.items():
        match domain:
            case Choice():
                values[name] = list(domain.values)
            case IntRange():
                values[name] = list(range(domain.low, domain.high + 1, domain.step))
            case FloatRange():
                step = domain.step or (domain.high - domain.low) / (points - 1) or 1.0
                count = int((domain.high - domain.low) / step + 1e-9) + 1
                values[name] = [round(domain.low + i * step, 10) for i in range(count)]
    return values


def is_searched(domain: Domain, value: Value) -> bool:
    """Tell whether a search over the domain can reach the value; a knob's neutral value may lie outside."""
    match domain:
        case Choice(values):
            return value in values
        case FloatRange(low, high) | IntRange(low, high):
            return value in domain and not isinstance(value, str) and low <= value <= high


def is_nominal(domain: Domain) -> bool:
    """Tell whether a knob's values have no order, so that two of them are only equal or different."""
    return isinstance(domain, Choice) and any(isinstance(value, str | bool) for value in domain.values)
