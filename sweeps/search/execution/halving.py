"""Multi-objective asynchronous successive halving, which decides the trials to measure at the next fidelity.

Successive halving measures many trials cheaply and promotes the best share of them. It decomposes into a *rung* for
each fidelity (a share of the validation data or of the fine-tuning steps); an *order* of the points in a rung, by
non-dominated rank and then by hypervolume contribution; and a *rule* that compares a new trial with the current rung,
so that no trial waits for another (ASHA, Li et al. 2020; with several objectives MO-ASHA, Schmucker et al. 2021). The
rule adds two exceptions: a point on the front of its rung is always promoted, and so is a point within noise of it.

Optuna's `Trial.report` takes one objective only, so the rungs are attributes of the trials (`study.rungs`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import moocore
import numpy as np
import optuna

from analysis.pareto.dominance import BoolArray, Floats, Ranks, as_costs, finite_rows, ranks
from kmr.core import Direction
from sweeps.errors import SweepError
from sweeps.search.study.point import Point
from sweeps.search.study.rungs import Rungs


def non_dominated_ranks(values: Floats, directions: Sequence[str]) -> Ranks:
    """Return the rank of each row of (n, d) `values`, as (n,) ints; rows that are not finite rank last."""
    found = ranks(values, directions)
    found[found < 0] = found.max(initial=0) + 1
    return found


def positions(values: Floats, directions: Sequence[str]) -> Ranks:
    """Return the place of each row of (n, d) `values` in their total order, as (n,) ints; 0 is the best.

    Rows are ordered by rank, then by hypervolume contribution, larger first, then by index. Contributions use
    objectives scaled to the unit box of the finite rows and the reference point 1.1. Raises ValueError as
    `non_dominated_ranks` does.
    """
    ranked = non_dominated_ranks(values, directions)
    costs = as_costs(values, directions)
    places = np.empty(len(costs), dtype=np.intp)
    for rank in np.unique(ranked):
        members = ranked == rank
        places[members] = (ranked < rank).sum() + _places_within(costs, members)
    return places


def _places_within(costs: Floats, members: BoolArray) -> Ranks:
    """Order the rows of one rank by hypervolume contribution."""
    contributions = np.zeros(int(members.sum()))
    finite = costs[finite_rows(costs)]
    if costs.shape[1] > 1 and np.isfinite(costs[members]).all():
        low, span = finite.min(axis=0), np.ptp(finite, axis=0)
        unit = (costs[members] - low) / np.where(span > 0, span, 1.0)
        distinct, first = np.unique(unit, axis=0, return_index=True)
        contributions[first] = moocore.hv_contributions(distinct, ref=np.full(costs.shape[1], 1.1))
    places = np.empty(len(contributions), dtype=np.intp)
    places[np.argsort(-contributions, kind="stable")] = np.arange(len(contributions))
    return places


class Decision(NamedTuple):
    """Decision whether a trial stops at a rung, and its reason."""

    stops: bool
    reason: str


@final
@dataclass(frozen=True)
class Halving:
    """Rule that decides which trials continue at the next fidelity.

    A cost is exact and the same at every fidelity; a quality read on little data is not, and should have a standard
    error. Trials that pass the last rung are measured at full fidelity: only they can be on the front.

    Args:
        fidelities: rising shares of a full evaluation, ending in 1; one rung for each share below 1.
        reduction: the best 1/reduction of a rung, new trial included, continue, and at least one; above 1.
        grace: number of trials in a rung, new trial included, before any is stopped; at least 1.
        z: tolerance, in standard errors, when a trial is compared with the front of its rung; at least 0.
        keep_front: whether the whole front of the rung continues, and every trial within noise of it.

    Raises:
        SweepError: a setting is out of range.
    """

    fidelities: tuple[float, ...] = (0.25, 1.0)
    reduction: float = 2.0
    grace: int = 6
    z: float = 1.0
    keep_front: bool = True

    def __post_init__(self) -> None:
        shares = tuple(float(share) for share in self.fidelities)
        rises = all(low < high for low, high in zip((0.0, *shares), shares, strict=False))
        if not shares or not rises or shares[-1] != 1.0:
            raise SweepError(f"fidelities must rise from above 0 to exactly 1, not {list(shares)}")
        object.__setattr__(self, "fidelities", shares)
        if not 1 < self.reduction < math.inf:
            raise SweepError(f"halving: reduction must be more than 1, not {self.reduction}")
        if self.grace < 1:
            raise SweepError(f"halving: grace must be at least 1, not {self.grace}")
        if not 0 <= self.z < math.inf:
            raise SweepError(f"halving: z must be at least 0, not {self.z}")

    @property
    def low(self) -> tuple[float, ...]:
        """The fidelities below the full one."""
        return self.fidelities[:-1]

    def decide(
        self, values: Sequence[float], others: Floats, directions: Sequence[str], stderrs: Sequence[float] | None = None
    ) -> Decision:
        """Decide whether a trial that enters a rung continues, compared with the points in the rung.

        Args:
            values: (d,) values of the new trial; it stops if one is not finite.
            others: (n, d) values of the points in the rung.
            directions: `minimize` or `maximize` for each objective.
            stderrs: (d,) standard errors of the new trial's values, 0 if exact.
        """
        costs = as_costs(np.vstack([np.reshape(others, (-1, len(directions))), [values]]), directions)
        own, count = costs[-1], len(costs)
        if not np.isfinite(own).all():
            return Decision(True, f"values {[float(value) for value in values]} are not all finite")
        if count <= self.grace:
            return Decision(False, f"among the first {self.grace} of its rung")
        ranked = non_dominated_ranks(costs, ["minimize"] * costs.shape[1])
        if self.keep_front and ranked[-1] == 0:
            return Decision(False, "on the front of its rung")
        if self.keep_front and stderrs is not None:
            finite = costs[finite_rows(costs)]
            if not _dominated(own - self.z * np.asarray(stderrs, dtype=np.float64), finite):
                return Decision(False, "within the noise of the front of its rung")
        quota = max(1, math.floor(count / self.reduction))
        place = int((ranked < ranked[-1]).sum() + _places_within(costs, ranked == ranked[-1])[-1])
        return Decision(place >= quota, f"place {place + 1} of {count} in its rung; the best {quota} continue")


def _dominated(row: Floats, costs: Floats) -> bool:
    return bool(((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any())


@final
class EarlyStopping:
    """Early stopping of one study's trials by halving; the study keeps the rungs.

    Args:
        study: the Optuna study.
        halving: the rule.
        objectives: the direction of each objective.

    Raises:
        SweepError: the study was searched with other fidelities or objectives.
    """

    def __init__(self, study: optuna.Study, halving: Halving, objectives: Mapping[str, Direction]) -> None:
        self._halving, self._objectives = halving, objectives
        self._rungs = Rungs(study, halving.low, len(objectives))

    def passed(self, trial: optuna.Trial) -> int:
        """Return the number of rungs that a trial has passed, before a retry too."""
        return self._rungs.passed(trial)

    def stops(self, trial: optuna.Trial, rung: int, low: Point) -> str | None:
        """Record a trial's values at a rung; return why it stops, or None if it continues.

        Raises:
            UpdateFinishedTrialError: another driver has finished the trial.
        """
        values = low.values(list(self._objectives))
        stderrs = [_known(low.readings[name][1]) for name in self._objectives]
        others = np.array(self._rungs.enter(trial, values, stderrs), dtype=np.float64)
        decision = self._halving.decide(values, others, list(self._objectives.values()), stderrs)
        if decision.stops:
            return f"stopped at a fidelity of {self._halving.low[rung]:g}: {decision.reason}"
        self._rungs.go_on(trial, decision.reason)
        return None


def _known(stderr: float | None) -> float:
    return float(stderr) if stderr is not None and math.isfinite(stderr) else 0.0
