"""Records of a study's trials: their measurements and how they ended.

Records are kept in user attributes, so that the results table, the report and the MLflow runs can be rebuilt from the
storage alone.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, create_trial

from kmr.core import Value
from sweeps.search.problem import Params, Problem
from sweeps.search.space import distributions
from sweeps.search.study.attributes import BEGUN_BY, ID, INTERMEDIATE_OF, OUTCOME, OWNER
from sweeps.search.study.point import NOTHING_RECALLED, Ended, Point, Recalled
from sweeps.search.study.proposal import HowProposed, Untrained, keep_proposal, untrained_of
from sweeps.search.study.trial_state import TrialState, of_optuna, to_optuna

_LEFT_NOTHING: Mapping[str, Any] = {"state": "failed", "error": "left no record"}


@dataclass(frozen=True)
class Record:
    """Record of a trial that has ended.

    `number` counts the trials proposed for evaluation and is the same for every driver of the study; `optuna_number`
    also counts intermediate models.
    """

    number: int
    params: Mapping[str, Value]
    state: TrialState
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    error: str | None = None
    finished: str = ""
    seconds: float = 0.0
    overhead: float = 0.0
    duplicate_of: int | None = None
    recalled: Recalled = NOTHING_RECALLED
    optuna_number: int = -1

    @property
    def final(self) -> Point | None:
        """The last model the trial measured."""
        return self.points[-1] if self.points else None


def is_intermediate(trial: FrozenTrial) -> bool:
    """Tell whether an Optuna trial is an intermediate model of another trial."""
    return INTERMEDIATE_OF in trial.user_attrs


def is_asked(trial: FrozenTrial) -> bool:
    """Tell whether a trial has a number and a record: it is not intermediate, not screened and not added by hand."""
    return not (is_intermediate(trial) or _is_added(trial) or untrained_of(trial) is not None)


def was_tried(trial: FrozenTrial) -> bool:
    """Tell whether a trial that has ended counts as tried: neither screened, retried nor intermediate."""
    if OUTCOME in trial.user_attrs:
        return state_of(trial) != TrialState.RETRIED
    return _is_added(trial) and not is_intermediate(trial)


def _is_added(trial: FrozenTrial) -> bool:
    """Tell whether a trial was added by hand, with its values."""
    return trial.state == optuna.trial.TrialState.COMPLETE and OUTCOME not in trial.user_attrs


def state_of(trial: FrozenTrial) -> TrialState:
    """Return the state of a trial; a trial added by hand is a duplicate, as it was not evaluated."""
    if not trial.state.is_finished():
        return of_optuna(trial.state)
    if OUTCOME in trial.user_attrs:
        state: TrialState = _outcome_of(trial)["state"]
        return state
    if (untrained := untrained_of(trial)) is not None:
        return untrained.state or TrialState.DUPLICATE
    return TrialState.DUPLICATE if _is_added(trial) else of_optuna(trial.state)


def count_states(study: Study) -> dict[TrialState, int]:
    """Count the trials of a study by state, waiting and running ones included."""
    counts: dict[TrialState, int] = {}
    for trial in filter(is_asked, study.get_trials(deepcopy=False)):
        state = state_of(trial)
        counts[state] = counts.get(state, 0) + 1
    return counts


def records(study: Study) -> list[Record]:
    """Read the records of a study's finished trials, in order, without intermediate models."""
    number, found = 0, []
    for trial in study.get_trials(deepcopy=False):
        if is_intermediate(trial):
            continue
        if trial.state.is_finished() and is_asked(trial):
            found.append(record_of(trial, number))
        number += 1
    return found


def record_of(trial: FrozenTrial, number: int | None = None) -> Record:
    """Read the record of a finished trial; `number` is for a trial that does not store its own."""
    outcome = _outcome_of(trial)
    points = tuple(Point(**point) for point in outcome.pop("points", ()))
    outcome["notes"] = tuple(outcome.get("notes", ()))
    outcome["recalled"] = Recalled(**outcome.get("recalled", {}))
    own = int(trial.user_attrs.get(OWNER, {}).get("number", -1 if number is None else number))
    return Record(number=own, params=dict(trial.params), points=points, optuna_number=trial.number, **outcome)


def _outcome_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return how a trial ended, as stored, with old state names translated."""
    outcome = dict(trial.user_attrs.get(OUTCOME, _LEFT_NOTHING))
    state, origin = TrialState(outcome["state"]), outcome.pop("served_from", None)
    if origin is not None:
        state, outcome["duplicate_of"] = TrialState.DUPLICATE, origin
    return {**outcome, "state": state}


def _to_outcome(record: Record) -> dict[str, Any]:
    """Return the fields of a record to store: those without a default value that Optuna does not store itself."""
    nothing = Record(-1, {}, record.state, ())
    kept = ("notes", "error", "seconds", "overhead", "duplicate_of", "recalled")
    fields = {name: value for name in kept if (value := getattr(record, name)) != getattr(nothing, name)}
    if "recalled" in fields:
        fields["recalled"] = asdict(record.recalled)
    points = [asdict(point) for point in record.points]
    return {"state": record.state, "points": points, "finished": record.finished or now(), **fields}


def recalled(found: Sequence[Record]) -> Recalled:
    """Add up the use of the prefix cache by trials."""
    return sum((record.recalled for record in found), NOTHING_RECALLED)


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def study_id(study: Study) -> str:
    """Return the unique, persistent identifier of a study."""
    if ID not in study.user_attrs:
        study.set_user_attr(ID, uuid.uuid4().hex)
    return str(study.user_attrs[ID])


def tell(study: Study, trial: optuna.Trial | int, **how: Any) -> None:
    """Close a trial in its study, even if the sampler then asks to stop.

    Raises:
        UpdateFinishedTrialError: another driver has finished the trial.
    """
    try:
        study.tell(trial, **how)
    except ValueError as error:
        if str(error).startswith("Cannot tell a "):
            raise UpdateFinishedTrialError(str(error)) from error
        raise
    except RuntimeError as error:
        # An exhausted sampler asks `optimize` to stop; nothing runs `optimize` here, and the trial is already closed.
        if "Study.stop" not in str(error):
            raise


def finish(
    study: Study,
    trial: optuna.Trial,
    problem: Problem,
    points: Sequence[Point],
    final: Point,
    ended: Ended,
    duplicate_of: int | None = None,
) -> None:
    """Close a trial with a result, with its limits as constraints and its points as attributes.

    Args:
        study: the trial's study.
        trial: a running trial.
        problem: the search problem.
        points: the models it measured, in order.
        final: its final model: the last of `points`, or the base model.
        ended: the end of its job.
        duplicate_of: the trial that measured the same model before.
    """
    trial.set_user_attr(OUTCOME, _to_outcome(_record(points, ended, duplicate_of)))
    _constrain(trial, constraints(problem, final))
    tell(study, trial, values=final.values(list(problem.objectives)))


def abandon(
    study: Study, trial: optuna.Trial, points: Sequence[Point], ended: Ended, violations: Mapping[str, float]
) -> None:
    """Close a trial without a result; store the models it measured and its known constraint values."""
    trial.set_user_attr(OUTCOME, _to_outcome(_record(points, ended)))
    _constrain(trial, violations)
    tell(study, trial, state=to_optuna(ended.state))


def abandon_other(study: Study, trial: FrozenTrial, points: Sequence[Point], ended: Ended) -> None:
    """Close a trial without a result whose process may be dead."""
    study._storage.set_trial_user_attr(trial._trial_id, OUTCOME, _to_outcome(_record(points, ended)))
    tell(study, trial.number, state=to_optuna(ended.state))


def screen(
    study: Study,
    trial: optuna.Trial,
    untrained: Untrained,
    how: HowProposed,
    violations: Mapping[str, float] | None = None,
) -> None:
    """Close a trial before training; the sampler learns from its constraint values, if they are known.

    Raises:
        UpdateFinishedTrialError: another driver has finished the trial.
    """
    _constrain(trial, violations or {})
    keep_proposal(trial, how, untrained)
    state = untrained.state or TrialState.DUPLICATE
    tell(study, trial, state=to_optuna(state, screened=True, constrained=violations is not None))


def _record(points: Sequence[Point], ended: Ended, duplicate_of: int | None = None) -> Record:
    return Record(
        ended.number, {}, ended.state, tuple(points), ended.notes, ended.error, "", ended.seconds, ended.overhead,
        duplicate_of, ended.recalled,
    )  # fmt: skip


def add_intermediate(
    study: Study, problem: Problem, point: Point, params: Params, of_trial: int, driver: str | None = None
) -> None:
    """Add an intermediate model to the study as a finished trial; a base model names the driver that adds it."""
    attributes = {INTERMEDIATE_OF: of_trial, **({} if driver is None else {BEGUN_BY: driver})}
    _add(study, problem, point, point.values(list(problem.objectives)), params, attributes)


def begun_by(study: Study) -> list[str]:
    """Return the drivers that added the base model, in order."""
    return [str(t.user_attrs[BEGUN_BY]) for t in study.get_trials(deepcopy=False) if BEGUN_BY in t.user_attrs]


def add_copy(
    study: Study,
    problem: Problem,
    record: Record,
    values: Sequence[float],
    params: Params,
    owner: Mapping[str, Any],
    duplicate_of: int | None,
) -> None:
    """Copy a trial with a result from another study, as a duplicate of a trial in this study or as a new trial."""
    assert record.final is not None, "only a trial with a result is copied"
    state = TrialState.COMPLETE if duplicate_of is None else TrialState.DUPLICATE
    outcome = _to_outcome(replace(record, state=state, duplicate_of=duplicate_of))
    _add(study, problem, record.final, values, params, {OUTCOME: outcome, OWNER: dict(owner)})


def _add(
    study: Study, problem: Problem, point: Point, values: Sequence[float], params: Params, attributes: dict[str, Any]
) -> None:
    study.add_trial(
        create_trial(
            values=values,
            params=dict(params),
            distributions=distributions(problem.space),
            user_attrs=attributes,
            constraints=constraints(problem, point) or None,
        )
    )


def constraints(problem: Problem, point: Point) -> dict[str, float]:
    """Return value − limit for each limited meter, sorted by name as the GP sampler needs; ≤ 0 is feasible."""
    return problem.violations({name: float(point.readings[name][0] or 0.0) for name in problem.limits})


def _constrain(trial: optuna.Trial, violations: Mapping[str, float]) -> None:
    for name, value in sorted(violations.items()):
        trial.set_constraint(name, value)
