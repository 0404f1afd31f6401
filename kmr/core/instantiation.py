"""Instantiations 𝔍 = (K, T, {Cᵢ}, {Qⱼ}) and their composition (paper, sections 5 and 6)."""

from collections import Counter
from dataclasses import dataclass

from kmr.core.errors import KMRError
from kmr.core.knob import Knob
from kmr.core.meter import Cost, Quality
from kmr.core.rule import Rule


@dataclass(frozen=True)
class Instantiation:
    """A technique, or several composed: its rules in order of application, and its cost and quality meters.

    Raises:
        KMRError: two rules turn knobs of the same name, or two meters share a name.
    """

    name: str
    rules: tuple[Rule, ...]
    costs: tuple[Cost, ...]
    qualities: tuple[Quality, ...]

    def __post_init__(self) -> None:
        for field in ("rules", "costs", "qualities"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        _check_unique("knob", [knob.name for knob in self.knobs], "give one of the rules another `name`")
        _check_unique("meter", [meter.name for meter in (*self.costs, *self.qualities)], "rename or remove one")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """All knobs, in the order of the rules."""
        return tuple(knob for rule in self.rules for knob in rule.knobs)

    def knob(self, name: str) -> Knob:
        """Return the knob of this name, or raise `KMRError` with the existing names."""
        for knob in self.knobs:
            if knob.name == name:
                return knob
        raise KMRError(f"unknown knob {name}: {self.name} has {', '.join(k.name for k in self.knobs) or 'no knobs'}")

    def rule_of(self, knob: str) -> Rule:
        """Return the rule T_k of a knob, or raise `KMRError` with the existing names."""
        self.knob(knob)
        return next(rule for rule in self.rules if knob in {k.name for k in rule.knobs})


def compose(*parts: Instantiation, name: str | None = None) -> Instantiation:
    """Compose instantiations: unite their knobs, rules and meters; the order of the parts is the order of the rules.

    A meter that several parts share (the same object or an equal one) is read once.

    Raises:
        KMRError: no part is given, or two parts have a knob of the same name or different meters of the same name.
    """
    if not parts:
        raise KMRError("compose got no instantiation: give at least one")
    return Instantiation(
        name=name or " + ".join(part.name for part in parts),
        rules=tuple(rule for part in parts for rule in part.rules),
        costs=tuple(dict.fromkeys(cost for part in parts for cost in part.costs)),
        qualities=tuple(dict.fromkeys(quality for part in parts for quality in part.qualities)),
    )


def _check_unique(what: str, names: list[str], way_out: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise KMRError(f"duplicate {what} {', '.join(twice)}: {way_out}")
