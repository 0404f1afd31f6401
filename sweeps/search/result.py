"""What a search leaves: its trials, the front, and where the proposals went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from analysis.pareto.dominance import non_dominated
from kmr.core import Value
from sweeps.search.problem import Problem
from sweeps.search.study.attributes import INTERMEDIATE_OF, OUTCOME, PROPOSAL
from sweeps.search.study.record import Record, record_of

State = Literal["complete", "failed", "halted", "served", "pruned", "interrupted"]


@dataclass(frozen=True)
class Searched:
    """A closed trial.

    `complete` trials were trained, `halted` ones to a low fidelity, and `failed` ones tried to be, those included whose
    process died every time; `served` ones are models trained before, `pruned` ones broke a limit on a static cost or
    had none that could be read, `interrupted` ones were put back, and none of these three was charged.

    Args:
        number: Optuna's of the trial.
        params: its vector.
        state: how it ended.
        readings: what was measured; none where it was not complete.
        is_feasible: whether it is complete and breaks no limit.
        error: why it is not complete.
        seconds: it took.
        stderrs: of the readings that have one.
    """

    number: int
    params: Mapping[str, Value]
    state: State
    readings: Mapping[str, float]
    is_feasible: bool
    error: str | None = None
    seconds: float | None = None
    stderrs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Accounting:
    """Where the proposals of a search went.

    Args:
        trained: evaluations that gave readings.
        failed: evaluations that did not.
        halted: evaluations stopped at a low fidelity.
        served: vectors of models trained before, told without training.
        pruned: draws that broke a limit on a static cost, told to the sampler without training.
        rejected: candidates that broke one and were dropped unheard.
        replaced: trials whose vector took the place of the sampler's draw, which was trained before or infeasible.
    """

    trained: int
    failed: int
    halted: int
    served: int
    pruned: int
    rejected: int
    replaced: int


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        records: its closed trials, in the order they were proposed.
        front: the complete, feasible ones no other beats, by the first objective.
        accounting: where the proposals went.
        study: Optuna's, for anything else.
        ended: why it ended before all trials were done; None where it did not.
    """

    records: tuple[Searched, ...]
    front: tuple[Searched, ...]
    accounting: Accounting
    study: optuna.Study
    ended: str | None = None


def searched_of(trial: FrozenTrial, problem: Problem) -> Searched:
    """Read one closed trial."""
    if OUTCOME in trial.user_attrs:
        return of_record(record_of(trial), problem)
    if trial.state == TrialState.COMPLETE:  # added by hand
        readings = dict(zip(problem.objectives, trial.values, strict=True))
        return Searched(trial.number, dict(trial.params), "served", readings, problem.is_feasible(readings))
    turned_down = trial.user_attrs.get(PROPOSAL, {}).get("screened")
    state: State = "interrupted" if turned_down is None else "pruned"
    return Searched(trial.number, dict(trial.params), state, {}, False, turned_down)


def of_record(record: Record, problem: Problem) -> Searched:
    """Read one closed trial that was tried."""
    readings = {} if record.final is None else record.final.readings
    values = {name: float(value) for name, (value, _) in readings.items() if value is not None}
    state: State
    match record.state:
        case "complete":
            state = "complete" if record.served_from is None else "served"
        case "pruned":
            state = "halted"
        case "interrupted":
            state = "interrupted"
        case _:
            state = "failed"
    return Searched(
        record.optuna_number,
        record.params,
        state,
        values,
        record.state == "complete" and problem.is_feasible(values),
        record.error,
        record.seconds,
        {name: stderr for name, (_, stderr) in readings.items() if stderr is not None},
    )


def result_of(study: optuna.Study, problem: Problem, ended: str | None = None) -> SearchResult:
    """Read everything a study holds."""
    closed = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and _counts(trial)]
    records = tuple(searched_of(trial, problem) for trial in closed)
    how = [trial.user_attrs.get(PROPOSAL, {}) for trial in closed]
    states = [record.state for record in records]
    accounting = Accounting(
        trained=states.count("complete"),
        failed=states.count("failed"),
        halted=states.count("halted"),
        served=states.count("served"),
        pruned=states.count("pruned"),
        rejected=sum(int(entry.get("rejected", 0)) for entry in how),
        replaced=sum(bool(entry.get("replaced")) for entry in how),
    )
    return SearchResult(records, _front(records, problem), accounting, study, ended)


def _counts(trial: FrozenTrial) -> bool:
    exhausted = trial.user_attrs.get(PROPOSAL, {}).get("screened") == "exhausted"
    return INTERMEDIATE_OF not in trial.user_attrs and not exhausted


def _front(records: Sequence[Searched], problem: Problem) -> tuple[Searched, ...]:
    feasible = [record for record in records if record.state == "complete" and record.is_feasible]
    if not feasible:
        return ()
    names, directions = list(problem.objectives), list(problem.objectives.values())
    values = np.array([[record.readings[name] for name in names] for record in feasible])
    mask = non_dominated(values, directions)
    front = [record for record, on_front in zip(feasible, mask, strict=True) if on_front]
    sign = 1 if directions[0] == "minimize" else -1
    return tuple(sorted(front, key=lambda record: sign * record.readings[names[0]]))
