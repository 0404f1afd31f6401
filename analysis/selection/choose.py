"""Choice of one point under a user's limits, with its probabilities and a runner-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.pareto.dominance import as_costs
from analysis.selection.limits import Limit, check_meter, read_limit
from analysis.table import StudyTable, TableError
from analysis.wording import NOTHING, listing, quantity, ratio, sequence

_95 = 1.959964
"""Standard errors on each side of a normal 95 % interval."""


@dataclass(frozen=True)
class MeasuredPoint:
    """A meter's reading of one point: a cost or a validation value, and the held-out test value if there is one.

    `interval` is the 95 % interval of the reading, `test_interval` that of the test value; NaN where unknown.
    """

    meter: str
    unit: str
    value: float
    stderr: float
    interval: tuple[float, float]
    baseline: float
    test: float
    test_interval: tuple[float, float]

    @property
    def words(self) -> str:
        """Describe the reading: its interval, the baseline, and the test value."""
        parts = [quantity(self.value, self.unit)]
        if math.isfinite(self.interval[0]):
            parts[0] += f" ({self._span(self.interval)})"
        compared = ratio(self.value, self.baseline) if not math.isfinite(self.stderr) else ""
        if compared.endswith(("less", "more")):
            parts.append(f"{compared} than the baseline")
        elif math.isfinite(self.baseline):
            parts.append(f"baseline {quantity(self.baseline, self.unit)}")
        if math.isfinite(self.test):
            span = f" ({self._span(self.test_interval)})" if math.isfinite(self.test_interval[0]) else ""
            parts.append(f"held-out test {quantity(self.test, self.unit)}{span}")
        return "; ".join(parts)

    def _span(self, interval: tuple[float, float]) -> str:
        # The width decides the digits of both ends.
        width = (interval[1] - interval[0]) / (2 * _95)
        low, high = (quantity(end, self.unit, width).partition(" ±")[0] for end in interval)
        return f"95 % interval {low} to {high}"


@dataclass(frozen=True)
class Pick:
    """A point that meets the limits, with the probabilities that it truly does and that it is on the front."""

    point: str
    technique: str
    sequence: str
    measured: tuple[MeasuredPoint, ...]
    p_limits: float
    p_front: float
    artifact: str
    is_baseline: bool


@dataclass(frozen=True)
class Selection:
    """The answer to a question: the best point, the runner-up, and the probability that the first is better.

    `pick` is None if no point meets the limits; `remark` then names the closest.
    """

    question: str
    best: str
    pick: Pick | None
    runner_up: Pick | None = None
    p_better: float = math.nan
    remark: str = ""


def choose(table: StudyTable, limits: Sequence[str] = (), best: str | None = None) -> Selection:
    """Choose the best complete point under limits.

    Args:
        table: the study.
        limits: texts in the form that `analysis.selection.limits` reads.
        best: the meter to optimise. By default the first quality among the objectives without a limit, else the first
            cost without a limit, else the first quality.

    Raises TableError: a limit or `best` cannot be read, or the study has no complete point.
    """
    read = [read_limit(text, table) for text in limits]
    meter = _best(table, read, best)
    values = table.column(f"meter/{meter}")
    usable = table.complete.to_numpy(dtype=np.bool_) & np.isfinite(values)
    if not usable.any():
        raise TableError(f"no complete point has a reading of {meter} in study {table.study}; run more trials")
    question = _question(table, read, meter)
    allowed = usable.copy()
    for limit in read:
        allowed &= limit.holds(table.column(f"meter/{limit.meter}"))
    if not allowed.any():
        return Selection(question, meter, None, remark=_nearest(table, read, usable))
    order = [row for row in _order(table, meter) if allowed[row]]
    picks = [_pick(table, row, read) for row in order[:2]]
    better = _p_better(table, meter, order[0], order[1]) if len(order) > 1 else math.nan
    return Selection(question, meter, picks[0], picks[1] if len(picks) > 1 else None, better, _remark(picks[0]))


def _best(table: StudyTable, limits: Sequence[Limit], best: str | None) -> str:
    if best is not None:
        check_meter(best, table)
        return best
    limited = {limit.meter for limit in limits}
    qualities = [name for name in table.objectives if table.kind(name) == "quality"]
    costs = [name for name in table.objectives if table.kind(name) == "cost"]
    free = [name for name in (*qualities, *costs) if name not in limited]
    return (free or qualities or costs)[0]


def _order(table: StudyTable, meter: str) -> list[int]:
    """Return the rows, best first; the other objectives decide ties."""
    names = (meter, *(name for name in table.objectives if name != meter))
    costs = as_costs(table.values(names), [table.direction(name) for name in names])
    return [int(row) for row in np.lexsort(costs.T[::-1])]


def _pick(table: StudyTable, index: int, limits: Sequence[Limit]) -> Pick:
    row = table.frame.iloc[index]
    names = dict.fromkeys((*table.objectives, *(limit.meter for limit in limits)))
    probability = 1.0
    for limit in limits:
        probability *= limit.probability(
            table.column(f"meter/{limit.meter}")[index], table.column(f"stderr/{limit.meter}")[index]
        )
    return Pick(
        point=str(row["point"]),
        technique=_text(row["technique"]),
        sequence=sequence(row["sequence"]),
        measured=tuple(_measured(table, index, name) for name in names),
        p_limits=probability,
        p_front=float(table.column("p_front")[index]),
        artifact=_text(row["artifact"]),
        is_baseline=bool(table.uncompressed.iloc[index]),
    )


def _measured(table: StudyTable, index: int, meter: str) -> MeasuredPoint:
    value, stderr = table.column(f"meter/{meter}")[index], table.column(f"stderr/{meter}")[index]
    test, test_stderr = table.column(f"test/{meter}")[index], table.column(f"test_stderr/{meter}")[index]
    unit = table.unit(meter)
    return MeasuredPoint(
        meter, unit, float(value), float(stderr), _interval(value, stderr, unit), table.baseline(meter)[0],
        float(test), _interval(test, test_stderr, unit),
    )  # fmt: skip


def _interval(value: float, stderr: float, unit: str) -> tuple[float, float]:
    if not (math.isfinite(value) and math.isfinite(stderr)):
        return math.nan, math.nan
    low, high = float(value - _95 * stderr), float(value + _95 * stderr)
    return (max(low, 0.0), min(high, 1.0)) if unit == "fraction" else (low, high)


def _p_better(table: StudyTable, meter: str, one: int, other: int) -> float:
    values, stderrs = table.column(f"meter/{meter}"), np.nan_to_num(table.column(f"stderr/{meter}"))
    sign = -1.0 if table.direction(meter) == "minimize" else 1.0
    ahead, noise = sign * (values[one] - values[other]), math.hypot(stderrs[one], stderrs[other])
    if noise == 0:
        return 1.0 if ahead > 0 else 0.5
    return 0.5 * math.erfc(-float(ahead) / noise / math.sqrt(2))


def _question(table: StudyTable, limits: Sequence[Limit], meter: str) -> str:
    most = "lowest" if table.direction(meter) == "minimize" else "highest"
    words = [limit.words(table.unit(limit.meter)) for limit in limits]
    return f"{most} {meter}" + (f" with {listing(words)}" if words else ", no limit set")


def _nearest(table: StudyTable, limits: Sequence[Limit], usable: Any) -> str:
    """Name the point closest to the limits; each miss counts as a share of its bound."""
    misses = np.zeros(len(table.frame))
    for limit in limits:
        slack = limit.slack(table.column(f"meter/{limit.meter}"))
        misses += np.where(np.isnan(slack), np.inf, np.maximum(0.0, -slack) / (abs(limit.bound) or 1.0))
    misses = np.where(usable, misses, np.inf)
    index = int(np.argmin(misses))
    if not math.isfinite(misses[index]):
        return f"no model has readings of {listing([limit.meter for limit in limits])}"
    missed = [
        f"{limit.meter} {quantity(table.column(f'meter/{limit.meter}')[index], table.unit(limit.meter))}"
        for limit in limits
        if not limit.holds(table.column(f"meter/{limit.meter}")[[index]])[0]
    ]
    return f"no model meets the limits; the closest is {table.frame['point'].iloc[index]} with {listing(missed)}"


def _remark(pick: Pick) -> str:
    if pick.is_baseline:
        return "this is the baseline itself; no compressed model meets the limits"
    if pick.p_limits < 0.9:
        return f"within the noise of the limits; it meets them with probability {pick.p_limits:.2f}"
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) and value != NOTHING else ""
