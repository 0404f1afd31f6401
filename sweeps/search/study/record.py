"""What a study keeps of its finished trials, read back.

What a trial measured is kept in its user attributes, so that the results table, the report and MLflow can be written
again from the storage alone.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kmr.core import Value
from sweeps.search.problem import Problem
from sweeps.search.study.attributes import INTERMEDIATE_OF, OUTCOME, OWNER, PROPOSAL
from sweeps.search.study.point import NOTHING_RECALLED, Ended, Point, Recalled

_ID = "kmr:id"


@dataclass(frozen=True)
class Record:
    """A finished trial as the study keeps it; `state` is complete, pruned, failed, infeasible or interrupted.

    Its number is its place among the trials that were asked for, so that it is the same for every driver of the study;
    `optuna_number` also counts the intermediate models.
    """

    number: int
    params: Mapping[str, Value]
    state: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    error: str | None = None
    finished: str = ""
    seconds: float = 0.0
    overhead: float = 0.0
    served_from: int | None = None
    recalled: Recalled = NOTHING_RECALLED
    optuna_number: int = -1

    @property
    def final(self) -> Point | None:
        """The last model the trial measured."""
        return self.points[-1] if self.points else None


def is_asked(trial: FrozenTrial) -> bool:
    """Tell whether a trial was asked for and tried: no model on the way, not added by hand, not turned down."""
    if trial.state == TrialState.COMPLETE and OUTCOME not in trial.user_attrs:
        return False
    turned_down = trial.user_attrs.get(PROPOSAL, {}).get("screened") is not None and OUTCOME not in trial.user_attrs
    return INTERMEDIATE_OF not in trial.user_attrs and not turned_down


def turned_down(study: optuna.Study) -> dict[str, int]:
    """Count the vectors that were told to the sampler without training, by reason."""
    counts: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        how = trial.user_attrs.get(PROPOSAL, {})
        if (reason := how.get("screened")) not in (None, "exhausted") and OUTCOME not in trial.user_attrs:
            kind = str(reason).split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
        if how.get("rejected"):
            counts["candidates"] = counts.get("candidates", 0) + int(how["rejected"])
    return counts


def records(study: optuna.Study) -> list[Record]:
    """Read the finished trials of a study, in order, without the intermediate models told as trials."""
    number, found = 0, []
    for trial in study.get_trials(deepcopy=False):
        if INTERMEDIATE_OF in trial.user_attrs:
            continue
        if trial.state.is_finished() and is_asked(trial):
            found.append(record_of(trial, number))
        number += 1
    return found


def record_of(trial: FrozenTrial, number: int | None = None) -> Record:
    """Read one finished trial; `number` is for a trial that does not keep its own."""
    outcome = dict(trial.user_attrs.get(OUTCOME) or {"state": "failed", "error": "left no record"})
    points = tuple(Point(**point) for point in outcome.pop("points", ()))
    outcome["notes"] = tuple(outcome.get("notes", ()))
    outcome["recalled"] = Recalled(**outcome.get("recalled", {}))
    own = int(trial.user_attrs.get(OWNER, {}).get("number", -1 if number is None else number))
    return Record(number=own, params=dict(trial.params), points=points, optuna_number=trial.number, **outcome)


def recalled(found: Sequence[Record]) -> Recalled:
    """Add up what trials had from the prefix cache."""
    return sum((record.recalled for record in found), NOTHING_RECALLED)


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def study_id(study: optuna.Study) -> str:
    """Return an identifier of the study that is the same each time it is opened and no other study's."""
    if _ID not in study.user_attrs:
        study.set_user_attr(_ID, uuid.uuid4().hex)
    return str(study.user_attrs[_ID])


def tell(study: Study, trial: optuna.Trial | int, **how: Any) -> None:
    """Tell a study of a trial, whatever its sampler then asks for.

    Raises:
        UpdateFinishedTrialError: another driver has finished it.
    """
    try:
        study.tell(trial, **how)
    except ValueError as error:
        if str(error).startswith("Cannot tell a "):
            raise UpdateFinishedTrialError(str(error)) from error
        raise
    except RuntimeError as error:
        # A sampler that has nothing left asks `optimize` to stop; here there is none, and the trial is told already.
        if "Study.stop" not in str(error):
            raise


def finish(
    study: optuna.Study,
    trial: optuna.Trial,
    problem: Problem,
    points: Sequence[Point],
    final: Point,
    ended: Ended,
    served_from: int | None = None,
) -> None:
    """Tell a complete trial, with its limits as constraints and its points as attributes.

    Args:
        study: of the trial.
        trial: running.
        problem: what is searched.
        points: the models it measured, in order.
        final: the model it came to: the last of them, or the base model.
        ended: how it went.
        served_from: the trial that measured the same model before.
    """
    outcome = {
        "state": "complete",
        "points": [asdict(point) for point in points],
        "notes": list(ended.notes),
        "finished": now(),
        "seconds": ended.seconds,
        "overhead": ended.overhead,
        "served_from": served_from,
        "recalled": asdict(ended.recalled),
    }
    trial.set_user_attr(OUTCOME, outcome)
    _constrain(trial, constraints(problem, final))
    tell(study, trial, values=final.values(list(problem.objectives)))


def abandon(
    study: optuna.Study, trial: optuna.Trial, points: Sequence[Point], ended: Ended, violations: Mapping[str, float]
) -> None:
    """Close a trial that gave no result; what it measured before is kept, and how it keeps the limits known of it."""
    outcome = {
        "state": ended.state,
        "error": ended.error or "",
        "points": [asdict(point) for point in points],
        "finished": now(),
        "seconds": ended.seconds,
        "recalled": asdict(ended.recalled),
    }
    trial.set_user_attr(OUTCOME, outcome)
    _constrain(trial, violations)
    tell(study, trial, state=TrialState.PRUNED if ended.state == "pruned" else TrialState.FAIL)


def constraints(problem: Problem, point: Point) -> dict[str, float]:
    """Return value − limit for each limited meter, sorted by name as the GP sampler needs; ≤ 0 is feasible."""
    return problem.violations({name: float(point.readings[name][0] or 0.0) for name in problem.limits})


def _constrain(trial: optuna.Trial, violations: Mapping[str, float]) -> None:
    for name, value in sorted(violations.items()):
        trial.set_constraint(name, value)
