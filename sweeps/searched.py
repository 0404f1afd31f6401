"""What a search leaves: its trials, the front, and where the proposals went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from analysis.front import non_dominated
from kmr.core import Value
from sweeps.problem import Problem
from sweeps.propose import PROPOSAL
from sweeps.records import OUTCOME

READINGS, ERROR, SECONDS = "kmr:readings", "kmr:error", "kmr:seconds"
State = Literal["complete", "failed", "served", "pruned", "interrupted"]


@dataclass(frozen=True)
class Searched:
    """A closed trial.

    `complete` trials were trained and `failed` ones tried to be, those included whose process died every time; `served`
    ones are models trained before, `pruned` ones broke a limit on a static cost, `interrupted` ones were put back, and
    none of these three was charged.
    """

    number: int
    params: Mapping[str, Value]
    state: State
    readings: Mapping[str, float]
    is_feasible: bool
    error: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Accounting:
    """Where the proposals of a search went.

    Args:
        trained: evaluations that gave readings.
        failed: evaluations that did not.
        served: vectors of models trained before, told without training.
        pruned: draws that broke a limit on a static cost, told to the sampler without training.
        rejected: candidates that broke one and were dropped unheard.
        replaced: trials whose vector took the place of the sampler's draw, which was trained before or infeasible.
    """

    trained: int
    failed: int
    served: int
    pruned: int
    rejected: int
    replaced: int

    @property
    def charged(self) -> int:
        """What counts towards the budget."""
        return self.trained + self.failed


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        records: its closed trials, in the order they were proposed.
        front: the complete, feasible ones no other beats, by the first objective.
        accounting: where the proposals went.
        study: Optuna's, for anything else.
    """

    records: tuple[Searched, ...]
    front: tuple[Searched, ...]
    accounting: Accounting
    study: optuna.Study


def searched_of(trial: FrozenTrial, problem: Problem) -> Searched:
    """Read one closed trial."""
    how = trial.user_attrs.get(PROPOSAL, {})
    readings = trial.user_attrs.get(READINGS, {})
    outcome = trial.user_attrs.get(OUTCOME, {})
    given_up = outcome.get("error") if outcome.get("state") == "failed" else None
    error = trial.user_attrs.get(ERROR, given_up)
    state: State
    match trial.state:
        case TrialState.COMPLETE:
            state = "served" if "served" in how else "complete"
        case TrialState.PRUNED:
            state = "pruned"
        case _:
            state = "interrupted" if error is None else "failed"
    feasible = trial.state == TrialState.COMPLETE and problem.is_feasible(readings)
    return Searched(
        trial.number, dict(trial.params), state, readings, feasible,
        error, trial.user_attrs.get(SECONDS),
    )  # fmt: skip


def result_of(study: optuna.Study, problem: Problem) -> SearchResult:
    """Read everything a study holds."""
    closed = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and trial.user_attrs.get(PROPOSAL, {}).get("screened") != "exhausted"
    ]
    records = tuple(searched_of(trial, problem) for trial in closed)
    how = [trial.user_attrs.get(PROPOSAL, {}) for trial in closed]
    states = [record.state for record in records]
    accounting = Accounting(
        trained=states.count("complete"),
        failed=states.count("failed"),
        served=states.count("served"),
        pruned=states.count("pruned"),
        rejected=sum(int(entry.get("rejected", 0)) for entry in how),
        replaced=sum(bool(entry.get("replaced")) for entry in how),
    )
    return SearchResult(records, _front(records, problem), accounting, study)


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
