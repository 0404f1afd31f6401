"""Legal orders of rules, in which no rule undoes the effect of an earlier one."""

from collections.abc import Iterator, Sequence

from kmr.core import Choice, Instantiation, KMRError, Rule

SEPARATOR = " > "
_MOST = 5040


def legal_orders(rules: Sequence[Rule]) -> Choice:
    """Return, as a knob's domain, the orders in which no rule follows a rule that leaves a trait it must precede.

    An order consists of the rules' names in order of application, joined by ` > `; the given order is neutral.

    Raises:
        KMRError: no order is legal, or more than 5,040 are (the number for seven rules without constraints).
    """
    found = []
    for order in _orders(tuple(rules), frozenset()):
        found.append(SEPARATOR.join(rule.name for rule in order))
        if len(found) > _MOST:
            raise KMRError(f"{len(rules)} rules have more than {_MOST} orders: list the ones to choose from")
    if not found:
        raise KMRError(f"no order of the rules is legal: {'; '.join(_conflicts(rules))}; drop one of these rules")
    return Choice(tuple(found), neutral=SEPARATOR.join(rule.name for rule in rules))


def knobs_in_order(instantiation: Instantiation, order: str | Sequence[str]) -> list[str]:
    """Return the knobs named by an order.

    Args:
        instantiation: the instantiation with the knobs and rules.
        order: names of knobs, or of rules for all their knobs, as a list or joined by `>`.

    Raises:
        KMRError: a name is neither a knob nor a rule.
    """
    names = [name.strip() for name in order.split(SEPARATOR.strip())] if isinstance(order, str) else list(order)
    by_rule = {rule.name: [knob.name for knob in rule.knobs] for rule in instantiation.rules}
    known = [knob.name for knob in instantiation.knobs]
    unknown = [name for name in names if name not in by_rule and name not in known]
    if unknown:
        raise KMRError(f"the order names unknown knobs {', '.join(unknown)}: there are {', '.join(known)}")
    return [knob for name in names for knob in ([name] if name in known else by_rule[name])]


def _orders(left: tuple[Rule, ...], traits: frozenset[str]) -> Iterator[tuple[Rule, ...]]:
    if not left:
        yield ()
    for index, rule in enumerate(left):
        if not rule.precedes & traits:
            for rest in _orders((*left[:index], *left[index + 1 :]), traits | rule.leaves):
                yield (rule, *rest)


def _conflicts(rules: Sequence[Rule]) -> list[str]:
    return [
        f"{one.name} must precede {', '.join(sorted(one.precedes & other.leaves))}, which {other.name} leaves"
        for one in rules
        for other in rules
        if one is not other and one.precedes & other.leaves
    ]
