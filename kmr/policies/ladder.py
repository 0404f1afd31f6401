"""Ladders: a knob's values as rungs of growing strength, the moves that step-by-step policies choose from."""

from collections.abc import Mapping

from kmr.core import Domain, Instantiation, Move
from kmr.core.domain import rungs


def domains(instantiation: Instantiation, space: Mapping[str, Domain] | None) -> dict[str, Domain]:
    """Return the domain of every knob to turn: those of the search space where there is one, in the rules' order."""
    if space is None:
        return {knob.name: knob.domain for knob in instantiation.knobs}
    return {knob.name: space[knob.name] for knob in instantiation.knobs if knob.name in space}


def ladders(instantiation: Instantiation, space: Mapping[str, Domain] | None, levels: int) -> dict[str, list[Move]]:
    """Return the rungs of every knob as moves, by knob, over the domains of the search space where it narrows them."""
    return {
        name: [Move(name, value) for value in rungs(domain, levels)]
        for name, domain in domains(instantiation, space).items()
    }
