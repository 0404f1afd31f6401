"""Digest of a study's failures: the count of each cause, and where in the space it occurs."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from kmr.core import Value
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState

_CAUSES = (
    ("out of memory", ("out of memory", "memoryerror", "cannot allocate", "killed by signal 9")),
    ("diverged", ("nonfinitereading", "has diverged", "loss became")),
    ("stopped at a low fidelity", ("stopped at a fidelity of", "of the fine-tuning:")),
)
_FEW = 3
"""Smallest number of failures in which a pattern is sought."""
_SHARED = 0.1
"""Largest share of successful trials that may meet a condition for it to be called a pattern of the failures."""


def digest(found: Sequence[Record]) -> list[str]:
    """Return a line for each cause, the most frequent first: `3 diverged at quantize.bits ≤ 3`."""
    groups: dict[str, list[Mapping[str, Value]]] = {}
    for record in found:
        if record.state.is_failure or record.state == TrialState.EARLY_STOPPED:
            groups.setdefault(cause(record.error or "no reason given"), []).append(record.params)
    fine = [record.params for record in found if record.state.has_result]
    ordered = sorted(groups.items(), key=lambda entry: -len(entry[1]))
    return [f"{len(vectors)} {name}{_where(vectors, fine)}" for name, vectors in ordered]


def cause(error: str) -> str:
    """Name the cause of an error, equal for errors that differ in numbers only."""
    error = re.sub(r"^given up after \d+ attempts: ", "", error)
    lowered = error.lower()
    for name, signs in _CAUSES:
        if any(sign in lowered for sign in signs):
            return name
    short = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "…", error)
    return short if len(short) <= 80 else short[:79] + "…"


def _where(failed: Sequence[Mapping[str, Value]], fine: Sequence[Mapping[str, Value]]) -> str:
    """Return the one-knob condition that all failures and the fewest successes meet; "" if it separates too little."""
    if len(failed) < _FEW or not fine:
        return ""
    best: tuple[float, str] = (_SHARED, "")
    for name in failed[0]:
        values = [vector[name] for vector in failed if name in vector]
        others = [vector[name] for vector in fine if name in vector]
        for text, holds in _conditions(name, values):
            share = sum(map(holds, others)) / max(1, len(others))
            if share < best[0]:
                best = (share, text)
    return best[1]


def _conditions(name: str, values: Sequence[Value]) -> Iterator[tuple[str, Callable[[Value], bool]]]:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        yield f" at {name} ≤ {high:g}", lambda value: float(value) <= high
        yield f" at {name} ≥ {low:g}", lambda value: float(value) >= low
    elif len(set(values)) == 1:
        yield f" at {name} = {values[0]}", lambda value: value == values[0]
