"""The search as a library (`from sweeps import search`): any function or table of readings, any space, no model needed.

`search` runs to a number of trainings and returns what it found. `Search` is the same in parts, for those who train
elsewhere: `ask` for a vector, train it, `tell` its readings; many may be under way at once.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakSet

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from kmr.core import Direction
from sweeps import leases
from sweeps.errors import SweepError
from sweeps.problem import Canonical, Params, Problem, StaticCosts, as_given
from sweeps.propose import PROPOSAL, Proposal, Proposer, tell
from sweeps.records import OWNER
from sweeps.sampling import anchors, pick_sampler, screening_pays, seed_after
from sweeps.screening import Screening
from sweeps.searched import ERROR, READINGS, SECONDS, Searched, SearchResult, result_of, searched_of
from sweeps.space import Space
from sweeps.tables import Readings, Table, as_function, columns

logger = logging.getLogger(__name__)

Evaluate: TypeAlias = Callable[[Params], Readings]
MOST_EQUAL_FAILURES = 5
"""After this many evaluations in a row that fail alike, the cause is not in the vectors."""
_PROBLEM = "kmr:problem"
_HELD: WeakSet[optuna.Trial] = WeakSet()
"""What this process was asked to train and has not let go of."""


class Search:
    """A search by ask and tell, in a study that may outlive the process; one process at a time.

    Args:
        as those of `search`, without `evaluate`. A study found in the storage is continued: trials that a dead process
        left are tried again first, each so often as `sweeps.leases` says; those of a live one are left alone.

    Raises:
        SweepError: the problem makes no sense, or the study in the storage is of another.
    """

    def __init__(
        self,
        space: Space,
        objectives: Mapping[str, Direction],
        constraints: Mapping[str, float] | None = None,
        budget: int = 100,
        *,
        static_costs: StaticCosts | None = None,
        canonical: Canonical = as_given,
        sampler: optuna.samplers.BaseSampler | None = None,
        screening: Screening | bool | None = True,
        start: Sequence[Params] | None = None,
        seed: int = 0,
        storage: str | BaseStorage | None = None,
        name: str = "search",
    ) -> None:
        self.problem = Problem(dict(space), dict(objectives), dict(constraints or {}), canonical, static_costs)
        self.budget = budget
        _check(self.problem, budget)
        try:
            self.study = optuna.create_study(
                study_name=name, storage=storage, directions=list(objectives.values()), load_if_exists=True
            )
        except ValueError as error:
            raise SweepError(f"study {name} has other objectives: choose another name ({error})") from error
        _identify(self.study, self.problem)
        found = self.study.get_trials(deepcopy=False)
        seed = seed_after(seed, len(found))
        self.study.sampler = pick_sampler(self.problem.space, budget, seed).sampler if sampler is None else sampler
        if screening is True:
            screening = Screening() if sampler is None and screening_pays(self.problem) else None
        self._proposer = Proposer(self.study, self.problem, seed, screening or None)
        if found:
            if not _is_at_work(self.study):
                leases.reclaim(self.study, alone=False)
        else:
            for vector in anchors(self.problem.space, budget // 8) if start is None else start:
                self.study.enqueue_trial(dict(vector), skip_if_exists=True)

    def ask(self) -> Proposal | None:
        """Return what to train next, or None where nothing is left that is new and feasible.

        Of models already trained, whose vectors can only come from `start`, the study is told at once. A trial is under
        way for as long as this process holds its proposal.
        """
        try:
            while (proposal := self._ask()) is not None:
                _HELD.add(proposal.trial)
                with suppress(UpdateFinishedTrialError):  # else another driver drew the same enqueued trial
                    leases.claim(self.study, proposal.trial)
                    return proposal
        except BaseException:
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if OWNER not in trial.user_attrs:
                    leases.put_back(self.study, trial, "interrupted while it was drawn", count=False)
            raise
        return None

    def _ask(self) -> Proposal | None:
        while (proposal := self._proposer.ask()) is not None and proposal.known is not None:
            known = proposal.known
            for name, value in known.constraints.items():
                proposal.trial.set_constraint(name, value)
            proposal.trial.set_user_attr(READINGS, known.user_attrs.get(READINGS, {}))
            how = self._trial(proposal).user_attrs.get(PROPOSAL, {})
            proposal.trial.set_user_attr(PROPOSAL, {**how, "served": known.number})
            tell(self.study, proposal.trial, values=known.values)
        return proposal

    def tell(self, proposal: Proposal, readings: Readings, seconds: float | None = None) -> Searched:
        """Close a trial with its readings; the static ones need not be given again.

        A trial without a finite reading of every objective and limited meter fails: the sampler is told of no number
        that is not one.
        """
        given = {**proposal.static, **{name: float(value) for name, value in readings.items()}}
        wanted = dict.fromkeys((*self.problem.objectives, *self.problem.limits))
        missing = [name for name in wanted if name not in given]
        if missing:
            return self.fail(proposal, f"no reading of {', '.join(missing)}: evaluate gave {sorted(given)}", seconds)
        strange = [name for name in wanted if not math.isfinite(given[name])]
        if strange:
            return self.fail(proposal, ", ".join(f"{name} is {given[name]}" for name in strange), seconds)
        kept = {READINGS: {name: v for name, v in given.items() if math.isfinite(v)}, SECONDS: seconds}
        values = [given[name] for name in self.problem.objectives]
        return self._close(proposal, kept, self.problem.violations(given), values=values)

    def fail(self, proposal: Proposal, error: str, seconds: float | None = None) -> Searched:
        """Close a trial that gave no result; its vector is not proposed again."""
        return self._close(proposal, {ERROR: error, SECONDS: seconds}, {}, state=TrialState.FAIL)

    def put_back(self, proposal: Proposal) -> None:
        """Close a trial that was interrupted, unless it was told; its vector comes first when the search goes on."""
        with suppress(UpdateFinishedTrialError):
            leases.put_back(self.study, proposal.trial, "interrupted", count=False)

    @property
    def result(self) -> SearchResult:
        """What has been found so far."""
        return result_of(self.study, self.problem)

    def _close(
        self, proposal: Proposal, kept: Mapping[str, Any], constraints: Mapping[str, float], **how: Any
    ) -> Searched:
        """Tell the study how a trial ended; where Ctrl-C comes meanwhile, that is done first."""

        def close() -> None:
            for name, value in kept.items():
                if value is not None:
                    proposal.trial.set_user_attr(name, value)
            known = proposal.trial.constraints
            for name, value in constraints.items():
                if name not in known:
                    proposal.trial.set_constraint(name, value)
            tell(self.study, proposal.trial, **how)

        try:
            close()
        except KeyboardInterrupt:
            if not self._trial(proposal).state.is_finished():
                close()
            raise
        return self._searched(proposal)

    def _searched(self, proposal: Proposal) -> Searched:
        return searched_of(self._trial(proposal), self.problem)

    def _trial(self, proposal: Proposal) -> optuna.trial.FrozenTrial:
        return self.study.get_trials(deepcopy=False)[proposal.trial.number]


def search(
    space: Space,
    evaluate: Evaluate | Table,
    objectives: Mapping[str, Direction],
    constraints: Mapping[str, float] | None = None,
    budget: int = 100,
    *,
    static_costs: StaticCosts | Sequence[str] | None = None,
    on_trial: Callable[[Searched], None] | None = None,
    **settings: Any,
) -> SearchResult:
    """Search a space until `budget` vectors have been evaluated in all.

        >>> from kmr.core import Choice, IntRange
        >>> from sweeps import search
        >>> found = search(
        ...     {"width": IntRange(1, 64, neutral=64), "bits": Choice((32, 8, 4), neutral=32)},
        ...     evaluate=lambda knobs: {"accuracy": 1 - 1 / (knobs["width"] * knobs["bits"])},
        ...     objectives={"bytes": "minimize", "accuracy": "maximize"},
        ...     constraints={"bytes": 100},
        ...     budget=20,
        ...     static_costs=lambda knobs: {"bytes": knobs["width"] * knobs["bits"] / 8},
        ... )
        >>> found.accounting.trained, all(trial.readings["bytes"] <= 100 for trial in found.front)
        (20, True)

    Args:
        space: the domain of each knob.
        evaluate: takes a vector and returns readings by name, or a table that has them: a data frame with a column for
            each knob and meter, or a mapping from the tuples of values, in the order of the space, to readings. An
            exception fails the trial.
        objectives: `minimize` or `maximize` for each meter.
        constraints: the largest value of a meter to minimise, or that is no objective; the smallest of one to maximise.
        budget: trainings in all, failed ones included; a study taken up again continues to this total.
        static_costs: reads what is exact before anything is trained, so that infeasible vectors cost no training; for a
            table, the names of its columns. It is called for hundreds of candidates a proposal: let it take well under
            a millisecond, or pass `screening=None`.
        on_trial: told of every trial as it ends.
        settings: `canonical`, equal for vectors of the same model, which is trained once; `sampler`, an Optuna sampler
            in place of `sweeps.sampling.pick_sampler`'s; `screening`, a `Screening`, None for none, or True to decide
            by the problem; `start`, the vectors tried first in place of `sweeps.sampling.anchors`; `seed`; `storage`,
            Optuna's or its URL, and `name`, which keep the study.

    Raises:
        SweepError: the problem makes no sense, the study in the storage is of another, or evaluations keep failing
            alike.
    """
    if isinstance(static_costs, Sequence):
        static_costs = columns(evaluate, space, static_costs)
    function = evaluate if callable(evaluate) else as_function(evaluate, space)
    run = Search(space, objectives, constraints, budget, static_costs=static_costs, **settings)
    trained, alike, last = run.result.accounting.charged, 0, ""
    while trained < budget and (proposal := run.ask()) is not None:
        started = time.perf_counter()
        try:
            outcome = run.tell(proposal, function(proposal.trial.params), time.perf_counter() - started)
        except Exception as error:  # a user's function may raise anything, and no other trial is to blame
            text = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
            outcome = run.fail(proposal, text, time.perf_counter() - started)
        except BaseException:
            run.put_back(proposal)
            raise
        trained += 1
        if on_trial is not None:
            on_trial(outcome)
        alike = alike + 1 if outcome.error is not None and outcome.error == last else 1
        last = outcome.error or ""
        if last and alike >= MOST_EQUAL_FAILURES:
            raise SweepError(f"{alike} evaluations in a row failed alike, so the search stops: {last}")
    return run.result


__all__ = ["Evaluate", "MOST_EQUAL_FAILURES", "Search", "SearchResult", "search"]


def _check(problem: Problem, budget: int) -> None:
    if budget < 1:
        raise SweepError(f"budget must be at least 1 training, not {budget}")
    if not problem.space or not problem.objectives:
        raise SweepError("a search needs at least one knob and one objective")
    for name, direction in problem.objectives.items():
        if direction not in ("minimize", "maximize"):
            raise SweepError(f"objective {name} must be 'minimize' or 'maximize', not {direction!r}")
    for name, limit in problem.limits.items():
        if not math.isfinite(limit):
            raise SweepError(f"the limit of {name} must be a finite number, not {limit}")


def _identify(study: optuna.Study, problem: Problem) -> None:
    """Keep with the study what must not change, and refuse to continue another."""
    mine = {
        "space": {name: repr(domain) for name, domain in problem.space.items()},
        "objectives": dict(problem.objectives),
        "limits": dict(problem.limits),
    }
    mine = json.loads(json.dumps(mine))
    known = study.user_attrs.get(_PROBLEM)
    if known is None:
        study.set_user_attr(_PROBLEM, mine)
    elif known != mine:
        changed = ", ".join(key for key in mine if known.get(key) != mine[key])
        raise SweepError(f"study {study.study_name} was made with other {changed}: choose another name, or go back")


def _is_at_work(study: optuna.Study) -> bool:
    """Tell whether this process is at a trial of the study."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    known = {(trial.number, trial.datetime_start) for trial in running}
    return any((trial.number, trial.datetime_start) in known for trial in list(_HELD))
