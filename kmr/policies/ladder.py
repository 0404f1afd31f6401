"""Ladders: a knob's values as rungs of growing strength, the moves that step-by-step policies choose from."""

from collections.abc import Mapping

from kmr.core import Choice, Domain, FloatRange, Instantiation, IntRange, KMRError, Move, Value


def rungs(domain: Domain, levels: int) -> tuple[Value, ...]:
    """Return up to `levels` values of a domain, from the one nearest to neutral to the strongest.

    A range is cut evenly from its neutral end to its other end; a choice gives its values in order, thinned evenly.
    """
    if levels < 1:
        raise KMRError(f"a ladder needs at least one level, not {levels}")
    match domain:
        case Choice():
            values = [value for value in domain.values if value != domain.neutral]
            count = min(levels, len(values))
            return tuple(values[((i + 1) * len(values)) // count - 1] for i in range(count))
        case FloatRange() | IntRange():
            upward = abs(domain.high - domain.neutral) >= abs(domain.neutral - domain.low)
            near = min(max(domain.neutral, domain.low), domain.high)
            far = domain.high if upward else domain.low
            step = domain.step
            cut = [near + (far - near) * (i + 1) / levels for i in range(levels)]
            if step is not None:
                cut = [domain.low + step * round((value - domain.low) / step) for value in cut]
            if isinstance(domain, IntRange):
                return tuple(dict.fromkeys(round(v) for v in cut if round(v) != domain.neutral))
            return tuple(dict.fromkeys(round(v, 10) for v in cut if v != domain.neutral))


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
