"""Limits on meters as text: `latency_ms<=5`, `accuracy>=0.98*baseline`, `mse<=1.02*baseline`."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

import numpy as np

from analysis import renamed_meters
from analysis.pareto.dominance import BoolArray, Floats
from analysis.table import StudyTable, TableError
from analysis.wording import quantity

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?%?"
_LIMIT = re.compile(r"^\s*(?P<meter>[^<>=≤≥]+?)\s*(?P<sign><=|>=|<|>|≤|≥)\s*(?P<bound>[^<>=≤≥]+?)\s*$")
_BOUND = re.compile(
    rf"^(?:(?P<plain>{_NUMBER})|(?:(?P<before>{_NUMBER})\s*\*\s*)?baseline(?:\s*\*\s*(?P<after>{_NUMBER}))?"
    rf"(?:\s*(?P<way>[-+])\s*(?P<by>{_NUMBER}))?)$"
)
_HOW = "write <meter><=<number>, <meter><=1.02*baseline, <meter>>=0.98*baseline or <meter>>=baseline-0.01"


@dataclass(frozen=True)
class Limit:
    """A bound on a meter, at most (`upper`) or at least; `text` is what the user wrote."""

    meter: str
    upper: bool
    bound: float
    text: str

    def slack(self, values: Floats) -> Floats:
        """Return the distance of values from the bound: positive inside, negative outside, NaN where unknown."""
        return np.asarray(self.bound - values if self.upper else values - self.bound, dtype=np.float64)

    def holds(self, values: Floats) -> BoolArray:
        """Mark the values inside; the bound itself counts, up to rounding."""
        near = 1e-12 * max(abs(self.bound), 1e-300)
        return np.asarray(self.slack(values) >= -near, dtype=np.bool_)

    def probability(self, value: float, stderr: float) -> float:
        """Return the probability that the true value is inside, for a normally distributed reading."""
        slack = float(self.slack(np.array([value]))[0])
        if not (math.isfinite(stderr) and stderr > 0):
            return float(slack >= 0)
        return 0.5 * math.erfc(-slack / stderr / math.sqrt(2))

    def words(self, unit: str) -> str:
        """Describe the limit with its unit."""
        return f"{self.meter} {'at most' if self.upper else 'at least'} {quantity(self.bound, unit)}"


def read_limit(text: str, table: StudyTable) -> Limit:
    """Parse a limit; `baseline` stands for the base model's reading of the same meter.

    Raises TableError: the text is not a limit, no meter has the name, or the base model has no reading.
    """
    found = _LIMIT.match(text)
    if found is None:
        raise TableError(f"not a limit: {text!r}; {_HOW}")
    meter = found["meter"].strip()
    check_meter(meter, table)
    bound = _BOUND.match(found["bound"])
    if bound is None:
        raise TableError(f"not a bound: {found['bound']!r}; {_HOW}")
    return Limit(meter, found["sign"] in ("<=", "<", "≤"), _bound(bound, table, meter), text.strip())


def check_meter(meter: str, table: StudyTable) -> None:
    """Raise TableError, with the closest name, if the table has no meter of this name."""
    if meter in table.meters:
        return
    close = difflib.get_close_matches(meter, table.meters, 1, 0.5)
    hint = renamed_meters.hint(meter) or (f"did you mean {close[0]}?" if close else "")
    said = f" ({hint})" if hint else ""
    raise TableError(f"no meter is named {meter}{said}; study {table.study} has {', '.join(table.meters)}")


def _bound(bound: re.Match[str], table: StudyTable, meter: str) -> float:
    if bound["plain"] is not None:
        return _number(bound["plain"])
    baseline = table.baseline(meter)[0]
    if not math.isfinite(baseline):
        raise TableError(f"the base model has no reading of {meter}; give a number in place of baseline")
    if baseline < 0 and (bound["before"] or bound["after"]):
        raise TableError(
            f"a share of a negative baseline reverses the limit: the base model's {meter} is {baseline:.4g}; "
            f"write {meter}{'<=baseline+' if table.direction(meter) == 'minimize' else '>=baseline-'}<number>"
        )
    scaled = baseline * _number(bound["before"] or "1") * _number(bound["after"] or "1")
    by = _number(bound["by"] or "0")
    return scaled - by if bound["way"] == "-" else scaled + by


def _number(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)
