"""The ledger of a study: its proposed, running and finished trials; it trains no model twice."""

import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from sweeps.errors import SweepError
from sweeps.search.execution.halving import EarlyStopping
from sweeps.search.execution.observer import Catalogue, Observer, each
from sweeps.search.execution.task import Task
from sweeps.search.execution.work import Job
from sweeps.search.problem import Problem
from sweeps.search.proposals.proposer import Proposer
from sweeps.search.study.lease import GRACE, LEASE, claim, put_back, put_back_drawn_since, reclaim
from sweeps.search.study.peers import Others
from sweeps.search.study.point import Ended, MeasuredModel, Point
from sweeps.search.study.proposal import Untrained, how_proposed
from sweeps.search.study.record import Record, abandon, finish, record_of, records, screen
from sweeps.search.study.trial_state import TrialState

MOST_DUPLICATES = 100
"""Duplicates in a row after which the search counts as exhausted."""
RECLAIM_EVERY = 60.0
"""Seconds between two checks of a working driver for trials of dead processes."""


class Ledger:
    """Ledger of one study in one process; other processes may share the study.

    A vector whose model is known is a duplicate; one whose model is being trained waits for the result.

    Args:
        study: the Optuna study; its finished trials are read at once.
        problem: the search problem.
        proposer: source of trials.
        catalogue: catalogue of known models.
        observers: observers of every event.
        shared: whether other processes may work on the study now.
        counts_duplicates: whether duplicates count as finished.
        early_stopping: rule that stops trials at low fidelities; None evaluates all trials in full.
    """

    def __init__(
        self,
        study: optuna.Study,
        problem: Problem,
        proposer: Proposer,
        catalogue: Catalogue,
        observers: Sequence[Observer],
        *,
        shared: bool = False,
        counts_duplicates: bool = False,
        early_stopping: EarlyStopping | None = None,
    ) -> None:
        self.study, self.problem, self._proposer, self._catalogue = study, problem, proposer, catalogue
        self.observers = list(observers)
        """Observers of every event."""
        self.shared, self._counts_duplicates, self.early_stopping = shared, counts_duplicates, early_stopping
        self.records: list[Record] = []
        """Finished trials, in the order in which this process learned of them."""
        self.counts: dict[TrialState, int] = {}
        """Number of finished trials by state."""
        self.exhausted = False
        """Whether the last `ask` found nothing left to try."""
        self._known: dict[Hashable, tuple[int, Sequence[Point]]] = {}
        self._told: set[int] = set()
        self._others = Others(study, problem)
        self._reclaimed = time.monotonic()
        self._under_way: dict[int, Task] = {}
        self._duplicates_in_a_row = 0
        self._held: list[int] = []
        """Running trials that wait for another trial of the same model."""
        self._climbing: list[int] = []
        """Running trials that wait for a job at their next fidelity."""
        for record in records(study):
            self._remember(record)

    @property
    def finished(self) -> int:
        """Number of trials that count towards the total: all but the retried ones and uncounted duplicates."""
        free = [TrialState.RETRIED, *([] if self._counts_duplicates else [TrialState.DUPLICATE])]
        return len(self.records) - sum(self.counts.get(state, 0) for state in free)

    @property
    def under_way(self) -> int:
        """Number of running trials of this process."""
        return len(self._under_way)

    def ask(self) -> Task | None:
        """Return the next trial to train.

        None if the proposed trial needs no training now, because it is a duplicate or waits for another trial of the
        same model; also None if nothing is left, and then `exhausted` is set.
        """
        self.exhausted = False
        started = datetime.now()
        try:
            task = self._draw()
        except BaseException:
            put_back_drawn_since(self.study, started)
            raise
        if task is None or self._is_one_too_many(task):
            return None
        number, key = task.number, task.key
        twin = any(other.key == key for other in self._under_way.values())
        self._under_way[number] = task
        if twin:
            self._held.append(number)
            return None
        return self._unless_known(task)

    def first(self, key: Hashable) -> int | None:
        """Return the number of the first trial that measured a model, or None."""
        known = self._known.get(key)
        return None if known is None else known[0]

    def released(self) -> Task | None:
        """Return a waiting trial that can run now, at its next fidelity or because its twin gave no result, or None."""
        if self._climbing:
            return self._under_way[self._climbing.pop(0)]
        at_work = {task.key for number, task in self._under_way.items() if number not in self._held}
        for number in tuple(self._held):
            task = self._under_way[number]
            if task.key not in at_work:
                self._held.remove(number)
                if self._unless_known(task) is not None:
                    return task
        return None

    def job(self, task: Task) -> Job:
        """Return the next job of a trial."""
        return Job(task.number, dict(task.params), self._catalogue.front_values, task.static, task.rung)

    def measured(self, told: MeasuredModel) -> None:
        """Add a model that a trial measured. Raises SweepError if the trial is not running."""
        self._task(told.number).points.append(self._catalogue.kept(told.point))
        each(self.observers, lambda observer: observer.measured(told))

    def end(self, ended: Ended) -> Record | None:
        """Handle the end of a job: close or requeue its trial; return None if it continues at its next fidelity.

        Raises:
            UpdateFinishedTrialError: another driver has finished the trial; it no longer runs here.
            SweepError: the trial is not running.
        """
        task = self._task(ended.number)
        ended = task.whole(ended)
        if ended.state == TrialState.COMPLETE and not task.points and self._catalogue.base is None:
            ended = replace(ended, state=TrialState.FAILED, error="the executor reported no measured model")
        try:
            if ended.state == TrialState.RUNNING:
                if (why := self._stops(task, ended)) is None:
                    task.climb(ended)
                    self._climbing.append(task.number)
                    return None
                ended = replace(ended, state=TrialState.EARLY_STOPPED, error=why)
            match ended.state:
                case TrialState.COMPLETE:
                    finish(self.study, task.trial, self.problem, task.points, self._final(task.points), ended)
                case TrialState.RETRIED:
                    put_back(self.study, task.trial, ended.error or "", task.points, ended.seconds)
                case _:
                    known = self.problem.violations(self._proposer.costs(task.params))
                    abandon(self.study, task.trial, task.points, ended, known)
        except UpdateFinishedTrialError:
            del self._under_way[ended.number]
            each(self.observers, lambda observer: observer.overtaken())
            raise
        return self._close(task)

    def put_back(self, task: Task, why: str) -> None:
        """Close a stopped trial and queue its vector for a retry."""
        if self._under_way.pop(task.number, None) is None:
            return
        for waiting in (self._held, self._climbing):
            if task.number in waiting:
                waiting.remove(task.number)
        try:
            put_back(self.study, task.trial, why, task.points, task.seconds, count=False)
        except UpdateFinishedTrialError:
            each(self.observers, lambda observer: observer.overtaken())
            return
        self._remember(self._record(task))

    def put_all_back(self, why: str) -> None:
        """Put back every running trial, then raise the first error."""
        problems = []
        for number in sorted(self._under_way):
            try:
                self.put_back(self._under_way[number], why)
            except Exception as problem:
                problems.append(problem)
        if problems:
            raise problems[0]

    def take_in_others(self) -> int:
        """Read the trials that other drivers have finished; return how many trials they are running."""
        if not self.shared:
            return 0
        mine = {task.trial.number for task in self._under_way.values()}
        for trial in self._others.look(mine):
            if trial.number not in self._told:
                self._remember(record_of(trial))
        return len(self._others.at_work)

    def reclaim(self, every: float = RECLAIM_EVERY) -> int:
        """Queue the trials of dead processes for a retry, at most once per `every` seconds; return how many."""
        if not self.shared or time.monotonic() < self._reclaimed + every:
            return 0
        self._reclaimed = time.monotonic()
        # Reading costs may take long, so that an unclaimed trial has the whole lease, unless this driver is idle.
        return reclaim(self.study, alone=False, grace=LEASE if every else GRACE)

    def _draw(self) -> Task | None:
        """Propose and claim the next trial; return None if nothing is left, or another driver was faster."""
        started = time.perf_counter()
        proposal = None if self._duplicates_in_a_row >= MOST_DUPLICATES else self._proposer.ask()
        if proposal is None:
            self.exhausted, self._duplicates_in_a_row = True, 0
            return None
        trial = proposal.trial
        key = self.problem.canonical(trial.params)
        rung = 0 if self.early_stopping is None else self.early_stopping.passed(trial)
        try:
            number = claim(self.study, trial, renewed=self.shared)
        except UpdateFinishedTrialError:  # sqlite lets two drivers draw one enqueued trial, and the other was faster
            return None
        return Task(number, trial, proposal.static, key, started, rung)

    def _is_one_too_many(self, task: Task) -> bool:
        """Drop a trial whose model another driver is evaluating; tell whether it was dropped."""
        if not self.shared:
            return False
        self.take_in_others()
        why = self._others.why_too_many(task.trial.number, task.key)
        if why is None:
            return False
        how = how_proposed(self.study.get_trials(deepcopy=False)[task.trial.number])
        with suppress(UpdateFinishedTrialError):
            screen(self.study, task.trial, Untrained(TrialState.DUPLICATE, why), how)
        return True

    def _task(self, number: int) -> Task:
        if number not in self._under_way:
            raise SweepError(f"trial {number} is not running: it has ended already; tell each trial once")
        return self._under_way[number]

    def _unless_known(self, task: Task) -> Task | None:
        """Return the trial, or close it as a duplicate and return None if its model is known."""
        known = self._known.get(task.key)
        if known is None:
            self._duplicates_in_a_row = 0
            return task
        self._duplicates_in_a_row += not self._counts_duplicates
        duplicate_of, points = known
        ended = Ended(task.number, TrialState.DUPLICATE)
        try:
            finish(self.study, task.trial, self.problem, points, self._final(points), ended, duplicate_of)
        except UpdateFinishedTrialError:  # by another driver
            del self._under_way[task.number]
        else:
            self._close(task)
        return None

    def _stops(self, task: Task, ended: Ended) -> str | None:
        """Return why a trial stops at a low fidelity, or None if it continues."""
        if self.early_stopping is None or ended.low is None:
            raise SweepError(f"trial {task.number} ended at a low fidelity, but this search has none: pass fidelities")
        return self.early_stopping.stops(task.trial, task.rung, ended.low)

    def _final(self, points: Sequence[Point]) -> Point:
        """Return the final model of a complete trial."""
        final = points[-1] if points else self._catalogue.base
        assert final is not None, "without a base model, a complete trial has measured a model"
        return final

    def _close(self, task: Task) -> Record:
        record = self._record(task)
        self._remember(record)
        del self._under_way[task.number]
        if record.state != TrialState.RETRIED:
            each(self.observers, lambda observer: observer.closed(record))
        return record

    def _record(self, task: Task) -> Record:
        return record_of(self.study.get_trials(deepcopy=False)[task.trial.number])

    def _remember(self, record: Record) -> None:
        self.records.append(record)
        self._told.add(record.optuna_number)
        self.counts[record.state] = self.counts.get(record.state, 0) + 1
        if record.state != TrialState.DUPLICATE:
            for key, points in self._catalogue.known(record):
                self._known.setdefault(key, (record.number, points))
        each(self.observers, lambda observer: observer.took(record))
