"""Ask-and-tell interface of the search, for training elsewhere: `ask` for a vector, train it, `tell` its readings.

Several trials may run at once.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from kmr.core import Direction, Value
from sweeps.errors import SweepError
from sweeps.search.evaluator import FunctionWork, Unusable
from sweeps.search.execution.interrupts import undisturbed
from sweeps.search.execution.ledger import Ledger
from sweeps.search.execution.stopping import Stop
from sweeps.search.execution.task import Task
from sweeps.search.problem import Canonical, Params, Problem, StaticCosts, as_given
from sweeps.search.proposals.acquisition import Screening
from sweeps.search.proposals.choose_sampler import is_fixed, pick_sampler, screening_pays, seed_after
from sweeps.search.proposals.initial import anchors
from sweeps.search.proposals.proposer import Proposer
from sweeps.search.result import SearchResult, TrialResult, of_record, result_of
from sweeps.search.space import Space, is_searched
from sweeps.search.study import lease as leases
from sweeps.search.study.attributes import PROBLEM
from sweeps.search.study.point import Ended, MeasuredModel, Point
from sweeps.search.study.storage import open_storage
from sweeps.search.study.trial_state import TrialState
from sweeps.search.tables import GivenReadings
from sweeps.search.watcher import CompleteTrials, Watcher

_FORMAT = 2
"""Version of the format in which a study keeps its trials."""


class Search:
    """Search by ask and tell, in a study that may outlive the process and that several processes may share.

    The arguments are those of `search`, without `evaluate` and the settings of its execution. A study found in the
    storage is resumed. Trials of a dead process are retried first, as often as `sweeps.search.study.lease` allows;
    trials of a live process keep running.

    Raises:
        SweepError: the problem is invalid, or the study in the storage has another problem.
    """

    def __init__(
        self,
        space: Space,
        objectives: Mapping[str, Direction],
        limits: Mapping[str, float] | None = None,
        trials: int = 100,
        *,
        static_costs: StaticCosts | None = None,
        canonical: Canonical = as_given,
        sampler: optuna.samplers.BaseSampler | None = None,
        screening: Screening | bool | None = True,
        start: Sequence[Params] | None = None,
        seed: int = 0,
        storage: str | BaseStorage | None = None,
        name: str = "search",
        stop: Stop | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.problem = Problem(dict(space), dict(objectives), dict(limits or {}), canonical, static_costs)
        self.trials = trials
        _check(self.problem, trials)
        if stop is not None and not isinstance(stop, Stop):
            raise SweepError(f"stop must be a sweeps.Stop, not {stop!r}")
        if isinstance(storage, str):
            storage = open_storage(storage, Path())
        try:
            self.study = optuna.create_study(
                study_name=name, storage=storage, directions=list(objectives.values()), load_if_exists=True
            )
        except ValueError as error:
            raise SweepError(f"study {name} has other objectives ({error}): choose another name") from error
        _identify(self.study, self.problem, identity or {})
        found = self.study.get_trials(deepcopy=False)
        seed = seed_after(seed, len(found))
        self.study.sampler = pick_sampler(self.problem.space, trials, seed).sampler if sampler is None else sampler
        if screening is True:
            screening = Screening() if sampler is None and screening_pays(self.problem) else None
        fixed = is_fixed(self.study.sampler)
        proposer = Proposer(self.study, self.problem, seed, screening or None, wrap=not fixed)
        first = _checked(start, self.problem.space)
        if found:
            leases.reclaim(self.study, alone=False)
        elif first is not None or not fixed:
            for vector in anchors(self.problem.space, trials // 8) if first is None else first:
                self.study.enqueue_trial(vector, skip_if_exists=True)
        self.watcher = Watcher(self.problem, stop or Stop())
        """Observer of every trial."""
        self.ledger = Ledger(
            self.study, self.problem, proposer, CompleteTrials(self.problem), [self.watcher], shared=storage is not None
        )
        """All trials of the study, finished and running."""
        self._work = FunctionWork(dict, self.problem.objectives, tuple(self.problem.limits))

    def ask(self) -> Task | None:
        """Return the next trial to train, or None if no new feasible vector is left.

        A vector from `start` whose model is already trained is closed at once as a duplicate; one whose model is being
        trained waits for the result. A trial runs until `tell`, `fail` or `put_back` closes it, or this object is
        garbage-collected.
        """
        task = None
        try:
            with undisturbed():
                while task is None:
                    self.ledger.reclaim()
                    self.ledger.take_in_others()
                    task = self.ledger.released() or self.ledger.ask()
                    if self.ledger.exhausted and not self.ledger.reclaim(every=0.0):
                        break
        except BaseException:
            if task is not None:
                self.put_back(task)
            raise
        return task

    def tell(self, task: Task, readings: GivenReadings, seconds: float | None = None) -> TrialResult:
        """Close a trial with its readings; static costs may be left out.

        A trial without a finite reading of every objective and limited meter fails, so that the sampler sees finite
        values only.

        Args:
            task: the trial, from `ask`.
            readings: readings by meter; a `kmr.core.Reading` has a standard error.
            seconds: duration of the trial; by default the time since `ask`.
        """
        seconds = task.seconds if seconds is None else seconds
        try:
            point = self._work.point(readings, task.static, seconds)
        except Unusable as error:
            return self.fail(task, str(error), seconds)
        return self._end(Ended(task.number, TrialState.COMPLETE, seconds=seconds), point)

    def fail(self, task: Task, error: str, seconds: float | None = None) -> TrialResult:
        """Close a trial without a result; its vector is not proposed again."""
        seconds = task.seconds if seconds is None else seconds
        return self._end(Ended(task.number, TrialState.FAILED, error, seconds))

    def put_back(self, task: Task) -> None:
        """Close a running trial and queue its vector for a retry; do nothing if the trial has ended."""
        with undisturbed():
            self.ledger.put_back(task, "stopped before it was finished")

    @property
    def result(self) -> SearchResult:
        """The result so far."""
        return result_of(self.study, self.problem)

    def _end(self, ended: Ended, point: Point | None = None) -> TrialResult:
        with undisturbed():
            if point is not None:
                self.ledger.measured(MeasuredModel(ended.number, point))
            record = self.ledger.end(ended)
        assert record is not None, "a task ends at full fidelity"
        return of_record(record, self.problem)


def _check(problem: Problem, trials: int) -> None:
    if trials < 1:
        raise SweepError(f"trials must be at least 1, not {trials}")
    if not problem.space or not problem.objectives:
        raise SweepError(
            f"a search needs at least one knob and one objective, not {len(problem.space)} "
            f"and {len(problem.objectives)}"
        )
    for name, direction in problem.objectives.items():
        if direction not in ("minimize", "maximize"):
            raise SweepError(f"objective {name} must be 'minimize' or 'maximize', not {direction!r}")
    for name, limit in problem.limits.items():
        if not math.isfinite(limit):
            raise SweepError(f"the limit of {name} must be a finite number, not {limit}")


def _checked(start: Sequence[Params] | None, space: Space) -> list[dict[str, Value]] | None:
    for vector in start or ():
        if unknown := [name for name in vector if name not in space]:
            raise SweepError(f"start names {', '.join(unknown)}, not in the space: there are {', '.join(space)}")
        for name, value in vector.items():
            if not is_searched(space[name], value):
                raise SweepError(f"start: {name} cannot be {value!r}: choose {space[name]}")
    return None if start is None else [dict(vector) for vector in start]


def _identify(study: optuna.Study, problem: Problem, identity: Mapping[str, Any]) -> None:
    """Store what must not change with the study; refuse to resume a study with another identity."""
    mine = {
        **identity,
        "format": _FORMAT,
        "space": {name: repr(domain) for name, domain in problem.space.items()},
        "objectives": dict(problem.objectives),
        "limits": dict(problem.limits),
    }
    mine = json.loads(json.dumps(mine))
    known = study.user_attrs.get(PROBLEM)
    if known is None:
        study.set_user_attr(PROBLEM, mine)
    elif known != mine:
        changed = ", ".join(_changes(known, mine))
        raise SweepError(
            f"study {study.study_name} was made with other {changed}: choose another name, or restore the old settings "
            "(a study that kmr-sweeps 0.1 made with Compression needs that version)"
        )


def _changes(known: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries that differ, and in brackets the inner entries of those."""
    for key in {**known, **now}:
        then, here = known.get(key), now.get(key)
        if then != here:
            inner = []
            if isinstance(then, dict) and isinstance(here, dict):
                inner = [name for name in {**then, **here} if then.get(name) != here.get(name)]
            yield f"{key} ({', '.join(inner[:6])})" if inner else key
