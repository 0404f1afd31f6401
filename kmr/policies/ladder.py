"""Ladders of moves for step-by-step policies: a knob's values as rungs of growing strength."""

from collections.abc import Mapping

from kmr.core import Domain, Instantiation, Move
from kmr.core.domain import rungs


def domains(instantiation: Instantiation, space: Mapping[str, Domain] | None) -> dict[str, Domain]:
    """Return the domain of every knob to turn, in the rules' order; a search space selects and narrows them."""
    if space is None:
        return {knob.name: knob.domain for knob in instantiation.knobs}
    return {knob.name: space[knob.name] for knob in instantiation.knobs if knob.name in space}


def ladders(instantiation: Instantiation, space: Mapping[str, Domain] | None, levels: int) -> dict[str, list[Move]]:
    """Return the rungs of every knob to turn as moves, by knob."""
    return {
        name: [Move(name, value) for value in rungs(domain, levels)]
        for name, domain in domains(instantiation, space).items()
    }
