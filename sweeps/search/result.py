"""Result of a search: its trials, the front, and the counts of its proposals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from analysis.pareto.dominance import non_dominated
from kmr.core import Value
from sweeps.search.problem import Problem
from sweeps.search.study.proposal import how_proposed, untrained_of
from sweeps.search.study.record import Record, is_asked, is_intermediate, record_of, state_of
from sweeps.search.study.trial_state import TrialState


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial that has ended.

    Args:
        number: the trial's number in Optuna.
        params: its vector.
        state: its final state.
        readings: its readings; empty if it has no result.
        is_feasible: whether it has a result and meets all limits.
        error: why it has no result.
        seconds: its duration.
        stderrs: standard errors of the readings that have one.
    """

    number: int
    params: Mapping[str, Value]
    state: TrialState
    readings: Mapping[str, float]
    is_feasible: bool
    error: str | None = None
    seconds: float | None = None
    stderrs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ProposalCounts:
    """Counts of a search's proposals: trials by state, and candidates that were rejected before a trial.

    Args:
        complete: evaluations that gave readings.
        failed: evaluations that raised an error, gave no usable readings, or whose worker died every time.
        early_stopped: evaluations that halving stopped at a low fidelity.
        infeasible: vectors that break a limit or cannot be applied, mostly detected before training.
        duplicate: vectors of known models, closed without training.
        retried: evaluations that were stopped or whose worker died; a new trial has their vector.
        evaluated: trials that count towards the total: complete, failed, early-stopped, and infeasible in training.
        rejected: candidates that break a limit on a static cost, dropped without a trial.
        replaced: trials whose vector replaced the sampler's proposal, which was a duplicate or infeasible.
    """

    complete: int = 0
    failed: int = 0
    early_stopped: int = 0
    infeasible: int = 0
    duplicate: int = 0
    retried: int = 0
    evaluated: int = 0
    rejected: int = 0
    replaced: int = 0


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Args:
        records: trials that have ended, in the order of proposal.
        front: complete, feasible trials that no other dominates, sorted by the first objective.
        counts: counts of the proposals.
        study: the Optuna study.
        ended: why the search ended early; None if it did not.
    """

    records: tuple[TrialResult, ...]
    front: tuple[TrialResult, ...]
    counts: ProposalCounts
    study: optuna.Study
    ended: str | None = None


def of_trial(trial: FrozenTrial, problem: Problem) -> TrialResult:
    """Read one trial that has ended."""
    state = state_of(trial)
    if is_asked(trial):
        return of_record(record_of(trial), problem)
    if state.has_result and trial.values is not None:  # added by hand
        readings = dict(zip(problem.objectives, trial.values, strict=True))
        return TrialResult(trial.number, dict(trial.params), state, readings, problem.is_feasible(readings))
    untrained = untrained_of(trial)
    return TrialResult(trial.number, dict(trial.params), state, {}, False, untrained.why if untrained else None)


def of_record(record: Record, problem: Problem) -> TrialResult:
    """Convert the record of a trial to its result."""
    readings = {} if record.final is None else record.final.readings
    values = {name: float(value) for name, (value, _) in readings.items() if value is not None}
    return TrialResult(
        record.optuna_number,
        record.params,
        record.state,
        values,
        record.state.has_result and problem.is_feasible(values),
        record.error,
        record.seconds,
        {name: stderr for name, (_, stderr) in readings.items() if stderr is not None},
    )


def result_of(study: optuna.Study, problem: Problem, ended: str | None = None) -> SearchResult:
    """Read the result of a search from its study."""
    closed = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and _is_shown(trial)]
    records = tuple(of_trial(trial, problem) for trial in closed)
    return SearchResult(records, _front(records, problem), _count(closed), study, ended)


def _is_shown(trial: FrozenTrial) -> bool:
    """Tell whether the user sees a trial: neither an intermediate model nor the last ask of an exhausted search."""
    untrained = untrained_of(trial)
    return not (is_intermediate(trial) or (untrained is not None and untrained.state is None))


def _count(closed: Sequence[FrozenTrial]) -> ProposalCounts:
    states = Counter(map(state_of, closed))
    tried = Counter(map(state_of, filter(is_asked, closed)))
    how = [how_proposed(trial) for trial in closed]
    return ProposalCounts(
        complete=states[TrialState.COMPLETE],
        failed=states[TrialState.FAILED],
        early_stopped=states[TrialState.EARLY_STOPPED],
        infeasible=states[TrialState.INFEASIBLE],
        duplicate=states[TrialState.DUPLICATE],
        retried=states[TrialState.RETRIED],
        evaluated=sum(tried.values()) - tried[TrialState.DUPLICATE] - tried[TrialState.RETRIED],
        rejected=sum(each.rejected for each in how),
        replaced=sum(each.replaced for each in how),
    )


def _front(records: Sequence[TrialResult], problem: Problem) -> tuple[TrialResult, ...]:
    feasible = [record for record in records if record.state == TrialState.COMPLETE and record.is_feasible]
    if not feasible:
        return ()
    names, directions = list(problem.objectives), list(problem.objectives.values())
    values = np.array([[record.readings[name] for name in names] for record in feasible])
    mask = non_dominated(values, directions)
    front = [record for record, on_front in zip(feasible, mask, strict=True) if on_front]
    sign = 1 if directions[0] == "minimize" else -1
    return tuple(sorted(front, key=lambda record: sign * record.readings[names[0]]))
