"""Standing answers of a report: which models to take, with their held-out test values.

Points are chosen from the front by their validation values. Their test values took no part in the choice and are free
of its selection bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.front import front_frame
from analysis.selection.limits import Limit
from analysis.table import StudyTable
from analysis.wording import NOTHING, quantity, ratio, sequence

_SHARES = (("a quarter", 0.25), ("a tenth", 0.1))
_BOUNDED_BY_ONE = ("accuracy", "f1", "auc", "auroc", "r2", "precision", "recall", "iou", "miou", "dice", "map")


@dataclass(frozen=True)
class Answer:
    """A question and the point that answers it; if no point does, `point` is empty and `remark` says why."""

    question: str
    point: str = ""
    technique: str = ""
    sequence: str = ""
    cost: str = ""
    spent: str = ""
    quality: str = ""
    validation: str = ""
    test: str = ""
    baseline: str = ""
    remark: str = ""
    artifact: str = ""

    @property
    def sentence(self) -> str:
        """The question and the answer in one line of plain text."""
        if not self.point:
            return f"{self.question}: {self.remark}"
        parts = [
            f"{self.question}: {self.point} ({self.technique}: {self.sequence})",
            f"{self.cost} {self.spent}".strip(),
        ]
        compared = f" (baseline {self.baseline})" if self.baseline else ""
        parts.append(f"{self.quality} {self.validation} on validation, {self.test} on held-out test{compared}")
        return "; ".join(filter(None, (*parts, self.remark)))


def recommend(table: StudyTable) -> tuple[Answer, ...]:
    """Answer which model is cheapest at about the baseline's quality, and which is best at a share of its cost.

    There is an answer for every pair of a cost and a quality among the objectives, and for every limit of the study.
    Empty if the study has no complete point or no quality.
    """
    front = StudyTable(front_frame(table), table.meta, table.folder)
    if front.frame.empty:
        return ()
    qualities = [name for name in table.objectives if table.kind(name) == "quality"]
    costs = [name for name in table.objectives if table.kind(name) == "cost"]
    limits = _limits(table)
    answers = [_under_limit(front, quality, limit) for quality in qualities for limit in limits["cost"]]
    answers += [_cheapest(front, cost, limit) for cost in costs for limit in limits["quality"]]
    for quality in qualities:
        for cost in costs:
            answers += [_near_baseline(front, cost, quality)]
            answers += [_at_share(front, cost, quality, words, share) for words, share in _SHARES]
        if not costs:
            answers.append(_best(front, quality, np.ones(len(front.frame), dtype=np.bool_), f"Best {quality}", ""))
    return tuple(answers)


def tolerance(meter: str, unit: str, baseline: float) -> tuple[float, str]:
    """Return the loss that still counts as near the baseline: one point of a fraction, 1 % of other values."""
    if unit.strip() == "%":
        return 1.0, "1 point"
    if meter.lower() in _BOUNDED_BY_ONE or unit.strip().lower() in ("fraction", "ratio"):
        return 0.01, "1 point (0.01)"
    return 0.01 * abs(baseline), "1 %"


def _limits(table: StudyTable) -> dict[str, list[Limit]]:
    """Return the study's own limits by the kind of their meter."""
    found: dict[str, list[Limit]] = {"cost": [], "quality": []}
    for meter, bound in table.limits.items():
        found[table.kind(meter)].append(Limit(meter, table.direction(meter) == "minimize", bound, ""))
    return found


def _near_baseline(front: StudyTable, cost: str, quality: str) -> Answer:
    baseline = front.baseline(quality)[0]
    sign = -1.0 if front.direction(quality) == "minimize" else 1.0
    allowed, words = tolerance(quality, front.unit(quality), baseline)
    question = f"Lowest {cost} within {words} of the baseline's {quality}"
    if not math.isfinite(baseline):
        return Answer(question, remark=f"the baseline's {quality} is not known")
    losses = sign * (baseline - front.column(f"meter/{quality}"))
    # The limit itself counts, up to rounding.
    near = losses <= allowed + 1e-12 * max(abs(baseline), 1.0)
    if not near.any():
        return Answer(
            question,
            remark=f"no model is that close; the closest loses {quantity(float(losses.min()), front.unit(quality))}",
        )
    costs = np.where(near, front.column(f"meter/{cost}"), np.inf)
    return _answer(front, int(np.argmin(costs)), question, cost, quality)


def _at_share(front: StudyTable, cost: str, quality: str, words: str, share: float) -> Answer:
    question = f"Best {quality} at {words} of the baseline's {cost} or less"
    baseline = front.baseline(cost)[0]
    if not math.isfinite(baseline):
        return Answer(question, remark=f"the baseline's {cost} is not known")
    return _best(front, quality, front.column(f"meter/{cost}") <= share * baseline, question, cost)


def _under_limit(front: StudyTable, quality: str, limit: Limit) -> Answer:
    question = f"Best {quality} with {limit.words(front.unit(limit.meter))}"
    return _best(front, quality, limit.holds(front.column(f"meter/{limit.meter}")), question, limit.meter)


def _cheapest(front: StudyTable, cost: str, limit: Limit) -> Answer:
    question = f"Lowest {cost} with {limit.words(front.unit(limit.meter))}"
    costs = np.where(limit.holds(front.column(f"meter/{limit.meter}")), front.column(f"meter/{cost}"), np.nan)
    if not np.isfinite(costs).any():
        return Answer(question, remark="no complete model meets the limit")
    return _answer(front, int(np.nanargmin(costs)), question, cost, limit.meter)


def _best(
    front: StudyTable, quality: str, allowed: np.ndarray[tuple[int], np.dtype[np.bool_]], question: str, cost: str
) -> Answer:
    sign = -1.0 if front.direction(quality) == "minimize" else 1.0
    values = np.where(
        allowed & np.isfinite(front.column(f"meter/{quality}")), sign * front.column(f"meter/{quality}"), -np.inf
    )
    if not np.isfinite(values).any():
        return Answer(question, remark="no complete model meets the limit" if cost else "no complete model")
    return _answer(front, int(np.argmax(values)), question, cost, quality)


def _answer(front: StudyTable, index: int, question: str, cost: str, quality: str) -> Answer:
    row = front.frame.iloc[index]
    unit = front.unit(quality)
    value, stderr = front.column(f"meter/{quality}")[index], front.column(f"stderr/{quality}")[index]
    test = quantity(front.column(f"test/{quality}")[index], unit, front.column(f"test_stderr/{quality}")[index])
    baseline, baseline_stderr = front.baseline(quality)
    baseline_test = front.baseline(quality, test=True)
    compared = quantity(baseline, unit, baseline_stderr) if math.isfinite(baseline) else ""
    if math.isfinite(baseline_test[0]):
        compared += f", test {quantity(baseline_test[0], unit, baseline_test[1])}"
    remark = ""
    if row["technique"] == "baseline" or row["step"] == 0:
        remark = "this is the baseline itself; no compressed model qualifies"
    elif abs(value - baseline) < math.hypot(np.nan_to_num(stderr), np.nan_to_num(baseline_stderr)):
        remark = "its validation value is within the noise of the baseline's"
    spent = ""
    if cost:
        at, dense = front.column(f"meter/{cost}")[index], front.baseline(cost)[0]
        compare = ratio(at, dense)
        spent = quantity(at, front.unit(cost))
        spent += f", {compare} than the baseline" if compare.endswith(("less", "more")) else ""
    return Answer(
        question=question,
        point=str(row["point"]),
        technique=_text(row["technique"]),
        sequence=sequence(row["sequence"]),
        cost=cost,
        spent=spent,
        quality=quality,
        validation=quantity(value, unit, stderr),
        test="not measured" if test == NOTHING else test,
        baseline=compared,
        remark=remark,
        artifact=_text(row["artifact"]),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
