"""Multi-objective asynchronous successive halving: which trials are worth measuring at the next fidelity.

Successive halving measures many trials cheaply and takes the best share of them on. Made of: a *rung* for each fidelity
(a share of the validation data, of the fine-tuning steps); an *order* of the points in a rung, by non-dominated rank
and inside a rank by hypervolume contribution; and a *rule* that compares a newcomer with what its rung holds now, so
that no trial waits for another (ASHA, Li et al. 2020; with several objectives MO-ASHA, Schmucker et al. 2021). The rule
adds two things: a point on the front of its rung always goes on, and so does one that noise may be keeping off it.

Optuna's `Trial.report` takes one objective only, so the rungs are kept in a store of ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import moocore
import numpy as np

from analysis.pareto.dominance import Floats, Mask, Ranks, as_costs, finite_rows, ranks
from sweeps.errors import SweepError
from sweeps.search.execution.rungs import Decision, Record, RungStore, Verdict


def non_dominated_ranks(values: Floats, directions: Sequence[str]) -> Ranks:
    """Return the rank of each row of (n, d) `values`, as (n,) ints; rows that are not finite come after all others."""
    found = ranks(values, directions)
    found[found < 0] = found.max(initial=0) + 1
    return found


def positions(values: Floats, directions: Sequence[str]) -> Ranks:
    """Return the place of each row of (n, d) `values` in their total order, as (n,) ints; 0 is the best.

    By rank; inside a rank the larger hypervolume contribution first, with the objectives scaled to the unit box of the
    finite rows and the reference at 1.1; of equal rows the first. Raises ValueError as `non_dominated_ranks` does.
    """
    ranked = non_dominated_ranks(values, directions)
    costs = as_costs(values, directions)
    places = np.empty(len(costs), dtype=np.intp)
    for rank in np.unique(ranked):
        members = ranked == rank
        places[members] = (ranked < rank).sum() + _places_within(costs, members)
    return places


def _places_within(costs: Floats, members: Mask) -> Ranks:
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


def decide(
    values: Sequence[float],
    others: Floats,
    directions: Sequence[str],
    *,
    reduction: float,
    grace: int,
    keep_front: bool = True,
    stderrs: Sequence[float] | None = None,
    z: float = 1.0,
) -> Decision:
    """Decide whether a newcomer to a rung goes on, by the points the rung holds now.

    Args:
        values: the newcomer's (d,) values.
        others: (n, d), the points already in the rung.
        directions: `minimize` or `maximize` for each objective.
        reduction: the best 1/reduction of the rung, the newcomer counted, go on; at least one does.
        grace: as long as the rung holds no more points than this, the newcomer counted, all of them go on.
        keep_front: whether the rung's front goes on whatever its size, and whoever noise may be keeping off it.
        stderrs: (d,), the standard errors of the newcomer's values, 0 where exact.
        z: how many standard errors of luck the newcomer is granted when it is held against the front.
    """
    costs = as_costs(np.vstack([np.reshape(others, (-1, len(directions))), [values]]), directions)
    own, count = costs[-1], len(costs)
    if not np.isfinite(own).all():
        return Decision(Verdict.STOP, "a value is not finite")
    if count <= grace:
        return Decision(Verdict.CONTINUE, f"among the first {grace} of its rung")
    ranked = non_dominated_ranks(costs, ["minimize"] * costs.shape[1])
    if keep_front and ranked[-1] == 0:
        return Decision(Verdict.CONTINUE, "on the front of its rung")
    if keep_front and stderrs is not None:
        finite = costs[finite_rows(costs)]
        if not _dominated(own - z * np.asarray(stderrs, dtype=np.float64), finite):
            return Decision(Verdict.CONTINUE, "within the noise of the front of its rung")
    quota = max(1, math.floor(count / reduction))
    members = ranked == ranked[-1]
    place = int((ranked < ranked[-1]).sum() + _places_within(costs, members)[-1])
    reason = f"place {place + 1} of {count} in its rung; the best {quota} go on"
    return Decision(Verdict.CONTINUE if place < quota else Verdict.STOP, reason)


def _dominated(row: Floats, costs: Floats) -> bool:
    return bool(((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any())


@dataclass(frozen=True)
class Settings:
    """How trials are halved.

    Args:
        fidelities: rising shares of what a full evaluation takes, the last one 1.
        reduction: the best 1/reduction of a rung go on.
        grace: how many trials a rung takes before it stops any.
        z: standard errors of luck that a trial is granted when it is held against the front of its rung.
    """

    fidelities: tuple[float, ...] = (0.25, 1.0)
    reduction: float = 2.0
    grace: int = 6
    z: float = 1.0

    def halving(self, directions: Sequence[str]) -> "Halving":
        """Return what decides by these settings. Raises SweepError for one out of its range."""
        return Halving(self.fidelities, directions, self.reduction, self.grace, z=self.z)


@final
class Halving:
    """Takes what trials measure at growing fidelity, and says which go on.

    A cost is exact and the same at every fidelity; a quality read on little data is not, and should come with its
    standard error. Points that reach the last rung are at full fidelity: only they can be on the front of the study.

    Args:
        fidelities: increasing shares in (0, 1], the last one 1; one rung each.
        directions: `minimize` or `maximize` for each objective.
        reduction: the best 1/reduction of a rung go on; more than 1.
        grace: how many points a rung takes before it stops any; at least 1.
        keep_front: whether a point on the front of its rung, or within `z` standard errors of it, always goes on.
        z: see `keep_front`; at least 0.

    Raises:
        SweepError: a setting out of its range.
    """

    def __init__(
        self,
        fidelities: Sequence[float],
        directions: Sequence[str],
        reduction: float = 3.0,
        grace: int = 6,
        keep_front: bool = True,
        z: float = 1.0,
    ) -> None:
        self.fidelities = _checked(fidelities)
        self.directions = tuple(directions)
        try:
            as_costs(np.empty((0, len(self.directions))), self.directions)
        except ValueError as error:
            raise SweepError(f"halving: {error}") from error
        if not 1 < reduction < math.inf:
            raise SweepError(f"halving: reduction must be more than 1, not {reduction}")
        if grace < 1:
            raise SweepError(f"halving: grace must be at least 1, not {grace}")
        if not 0 <= z < math.inf:
            raise SweepError(f"halving: z must be at least 0, not {z}")
        self.reduction, self.grace, self.keep_front, self.z = reduction, grace, keep_front, z
        self._rungs: list[dict[int, Record]] = [{} for _ in self.fidelities]
        self._store: RungStore | None = None
        self._offset = 0

    def __repr__(self) -> str:
        return (
            f"Halving({self.fidelities}, {self.directions}, reduction={self.reduction}, grace={self.grace}, "
            f"keep_front={self.keep_front}, z={self.z})"
        )

    def restore(self, store: RungStore) -> "Halving":
        """Take in what the store holds, and share every later report through it; return this object.

        Raises SweepError when the store was written with other fidelities or objectives.
        """
        self._store, self._offset = store, 0
        self._refresh()
        return self

    def report(
        self, trial: int, rung: int, values: Sequence[float], stderrs: Sequence[float | None] | None = None
    ) -> Decision:
        """Enter what a trial measured at a rung, and decide whether it goes on.

        The first report of a trial at a rung stands: a later one, from any process, gets the same answer.

        Args:
            trial: its number in the study.
            rung: index into `fidelities`.
            values: one for each objective; a trial with one that is not finite stops.
            stderrs: of the values; None, or not finite, where exact or unknown.

        Raises:
            SweepError: an unknown rung, the wrong number of values, or a negative standard error.
        """
        if not 0 <= rung < len(self.fidelities):
            raise SweepError(
                f"halving: there is no rung {rung}; the last of {self.fidelities} is {len(self._rungs) - 1}"
            )
        errors = [0.0] * len(self.directions) if stderrs is None else [_known(stderr) for stderr in stderrs]
        if not len(values) == len(errors) == len(self.directions):
            raise SweepError(
                f"halving: {len(values)} values and {len(errors)} standard errors for {len(self.directions)} objectives"
            )
        if min(errors) < 0:
            raise SweepError(f"halving: a standard error is negative: {errors}")
        self._refresh()
        if trial not in self._rungs[rung]:
            numbers = tuple(float(value) if math.isfinite(value) else math.nan for value in values)
            decision = self._decide(rung, numbers, errors)
            record = Record(int(trial), int(rung), self.fidelities[rung], numbers, tuple(errors), decision)
            if self._store is not None:
                self._store.append(record)
                self._refresh()  # another process may have been first
            self._take(record)
        return self._rungs[rung][trial].decision

    def recorded(self, trial: int, rung: int) -> Record | None:
        """Return what a trial left at a rung; None when it has not been there."""
        self._refresh()
        return self._rungs[rung].get(trial)

    def _decide(self, rung: int, values: Sequence[float], stderrs: Sequence[float]) -> Decision:
        if rung == len(self.fidelities) - 1 and all(map(math.isfinite, values)):
            return Decision(Verdict.CONTINUE, "at full fidelity")
        return decide(
            values,
            self._values(rung),
            self.directions,
            reduction=self.reduction,
            grace=self.grace,
            keep_front=self.keep_front,
            stderrs=stderrs,
            z=self.z,
        )

    def _values(self, rung: int) -> Floats:
        rows = [record.values for record in self._rungs[rung].values()]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.directions))

    def _refresh(self) -> None:
        if self._store is not None:
            records, self._offset = self._store.read(self._offset)
            for record in records:
                self._take(record)

    def _take(self, record: Record) -> None:
        known = 0 <= record.rung < len(self.fidelities) and self.fidelities[record.rung] == record.fidelity
        if not known or len(record.values) != len(self.directions):
            raise SweepError(
                f"{self._store} was written with other fidelities or objectives: {len(record.values)} values at "
                f"fidelity {record.fidelity} in rung {record.rung}, against {self!r}; start a study of another name"
            )
        self._rungs[record.rung].setdefault(record.trial, record)


def _checked(fidelities: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in fidelities)
    rises = all(low < high for low, high in zip((0.0, *shares), shares, strict=False))
    if not shares or not rises or shares[-1] != 1.0:
        raise SweepError(f"fidelities must rise from above 0 to exactly 1, not {list(shares)}")
    return shares


def _known(stderr: float | None) -> float:
    return float(stderr) if stderr is not None and math.isfinite(stderr) else 0.0
