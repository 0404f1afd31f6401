"""Knob space of an experiment: the knobs' domains, narrowed by config, and vectors as sequences of moves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kmr.core import (
    Choice,
    Domain,
    FloatRange,
    Instantiation,
    IntRange,
    KMRError,
    Move,
    Rule,
    TransformationSequence,
    Value,
)
from kmr.policies import legal_orders
from sweeps.errors import SweepError
from sweeps.search.space import Space, distribution, is_searched

_SETTINGS = {"low", "high", "step", "log", "values"}


def search_space(instantiation: Instantiation, config: Mapping[str, Any]) -> Space:
    """Return the domain of every knob to search, in the order of the rules.

    Args:
        instantiation: provides the knobs.
        config: nested by the dots of the knobs' names. A knob's entry narrows its domain (`low`, `high`, `step`, `log`,
            or `values`), fixes it (a single value), or leaves it out of the search (null). An entry without `@` applies
            to every knob with that setting that has no entry of its own. Other knobs are searched over their whole
            domain, including the neutral value.

    Raises:
        SweepError: an entry names an unknown knob, or a value outside the knob's domain.
    """
    entries = _entries(config)
    names = [knob.name for knob in instantiation.knobs]
    unknown = [name for name in entries if name not in {*names, *map(_setting, names)}]
    if unknown:
        raise SweepError(
            f"space names unknown knob {', '.join(unknown)}: there are {', '.join(names) or 'none'} "
            "('~space' on the command line searches their whole domains)"
        )
    space: Space = {}
    for knob in instantiation.knobs:
        named = knob.name if knob.name in entries else _setting(knob.name)
        if named not in entries:
            space[knob.name] = _with_neutral(knob.domain)
            continue
        entry = entries[named]
        if entry is not None:
            try:
                space[knob.name] = _narrowed(knob.name, knob.domain, entry)
            except KMRError as error:
                raise SweepError(f"space.{knob.name}: {error}") from error
    for name, domain in space.items():
        try:
            distribution(domain)
        except ValueError as error:
            raise SweepError(f"space.{name}: {error}") from error
    if not space:
        raise SweepError("the search space is empty: give the sweep a rule (rule=[structured,quantize])")
    return space


def parameter_space(config: Mapping[str, Any], rules: Sequence[Rule] = ()) -> Space:
    """Return the domains of a policy's own parameters: `values`, or a range, which is an int range if its bounds are.

    `values: legal` stands for the orders in which no rule undoes another (`kmr.policies.legal_orders`).
    """
    space: Space = {}
    for name, entry in _entries(config).items():
        if not isinstance(entry, Mapping):
            raise SweepError(f"policy_space.{name} needs values, or low and high, not {entry!r}")
        try:
            if entry.get("values") == "legal":
                space[name] = legal_orders(rules)
            elif "values" in entry:
                space[name] = Choice(tuple(entry["values"]), neutral=entry["values"][0])
            elif isinstance(entry["low"], int) and isinstance(entry["high"], int):
                space[name] = IntRange(neutral=entry["low"], **entry)
            else:
                space[name] = FloatRange(neutral=entry["low"], **entry)
        except (KMRError, KeyError, TypeError, IndexError) as error:
            raise SweepError(f"policy_space.{name} needs values, or low and high: {error}") from error
    return space


def to_sequence(instantiation: Instantiation, params: Mapping[str, Value]) -> TransformationSequence:
    """Turn a knob vector into its moves, in the order of the rules; neutral values are left out."""
    moves = []
    for knob in instantiation.knobs:
        if knob.name in params:
            value = params[knob.name]
            value = round(value, 10) if isinstance(value, float) else value
            if not knob.is_neutral(value):
                moves.append(Move(knob.name, value))
    return TransformationSequence(tuple(moves))


def to_params(instantiation: Instantiation, space: Space, sequence: TransformationSequence) -> dict[str, Value] | None:
    """Turn moves back into a full knob vector, or None if no vector of the space expresses them."""
    given = {move.knob: move.value for move in sequence}
    order = [knob.name for knob in instantiation.knobs]
    in_order = [name for name in order if name in given]
    if in_order != [move.knob for move in sequence] or any(name not in space for name in given):
        return None
    params: dict[str, Value] = {}
    for name, domain in space.items():
        value = given.get(name, domain.neutral)
        if not is_searched(domain, value):
            return None
        params[name] = value
    return params


def _setting(knob: str) -> str:
    return knob.partition("@")[0]


def _with_neutral(domain: Domain) -> Domain:
    if isinstance(domain, Choice) and domain.neutral not in domain.values:
        return Choice((domain.neutral, *domain.values), domain.neutral)
    return domain


def _narrowed(name: str, domain: Domain, entry: Any) -> Domain:
    if not isinstance(entry, Mapping):
        entry = {"values": [entry]}
    strange = set(entry) - _SETTINGS
    if strange:
        raise SweepError(
            f"space.{name} has unknown settings: {', '.join(sorted(strange))}; it takes {', '.join(sorted(_SETTINGS))}"
        )
    if "values" in entry:
        if not isinstance(entry["values"], Sequence) or isinstance(entry["values"], str):
            raise SweepError(f"space.{name}.values must be a list, not {entry['values']!r}")
        chosen = Choice(tuple(entry["values"]), domain.neutral)
        _check_inside(name, domain, [value for value in chosen.values if value not in domain])
        return chosen
    if isinstance(domain, Choice):
        raise SweepError(f"space.{name} is a choice: give values out of {domain}")
    narrowed = replace(domain, **entry)
    _check_inside(name, domain, [v for v in (narrowed.low, narrowed.high) if not domain.low <= v <= domain.high])
    return narrowed


def _check_inside(name: str, domain: Domain, outside: Sequence[object]) -> None:
    if outside:
        raise SweepError(f"space.{name} cannot be {', '.join(map(str, outside))}: choose {domain}")


def _entries(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not set(value) & _SETTINGS:
            found.update(_entries(value, f"{name}."))
        else:
            found[name] = value
    return found
