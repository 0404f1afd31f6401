"""What a study keeps of its finished trials, read back.

What a trial measured is kept in its user attributes, so that the results table, the report and MLflow can be written
again from the storage alone.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from kmr.core import Value
from sweeps.search.proposals.proposer import PROPOSAL
from sweeps.search.study.attributes import INTERMEDIATE_OF, OUTCOME, OWNER
from sweeps.search.study.point import NOTHING_RECALLED, Point, Recalled

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
