"""How the outcome of a trial is told to its study.

Intermediate models are told as finished trials of their own, marked with the trial they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

import optuna
from optuna.trial import TrialState

from sweeps.experiment import Experiment
from sweeps.propose import tell
from sweeps.records import OUTCOME, now
from sweeps.shown import INTERMEDIATE_OF
from sweeps.space import distributions, to_params
from sweeps.trial import NOTHING_RECALLED, Evaluation, Point, Recalled


def finish(
    study: optuna.Study,
    trial: optuna.Trial,
    experiment: Experiment,
    evaluation: Evaluation,
    served_from: int | None,
    recalled: Recalled = NOTHING_RECALLED,
) -> None:
    """Tell a finished trial, with its budget as constraints and its points as attributes."""
    final = evaluation.points[-1]
    outcome = {
        "state": "complete",
        "points": [asdict(point) for point in evaluation.points[1:]],
        "notes": evaluation.notes,
        "finished": now(),
        "seconds": evaluation.seconds,
        "overhead": evaluation.overhead,
        "served_from": served_from,
        "recalled": asdict(recalled),
    }
    trial.set_user_attr(OUTCOME, outcome)
    for name, value in constraints(experiment, final).items():
        trial.set_constraint(name, value)
    tell(study, trial, values=final.values([meter.name for meter in experiment.objectives]))


def abandon(
    study: optuna.Study,
    trial: optuna.Trial,
    state: str,
    error: str,
    points: Sequence[Point],
    seconds: float,
    recalled: Recalled = NOTHING_RECALLED,
    violations: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Close a trial that gave no result; what it measured before is kept, and how it keeps the limits known of it."""
    outcome = {"state": state, "error": error, "finished": now(), "seconds": seconds, "recalled": asdict(recalled)}
    trial.set_user_attr(OUTCOME, {**outcome, "points": [asdict(point) for point in points]})
    for name, value in sorted(violations.items()):
        trial.set_constraint(name, value)
    tell(study, trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)


def tell_point(study: optuna.Study, experiment: Experiment, point: Point, of_trial: int) -> bool:
    """Tell an intermediate model to the study as a finished trial, where a knob vector stands for it."""
    params = to_params(experiment.instantiation, experiment.space, point.moves)
    if params is None:
        return False
    study.add_trial(
        optuna.trial.create_trial(
            values=point.values([meter.name for meter in experiment.objectives]),
            params=params,
            distributions=distributions(experiment.space),
            user_attrs={INTERMEDIATE_OF: of_trial},
            constraints=constraints(experiment, point) or None,
        )
    )
    return True


def constraints(experiment: Experiment, point: Point) -> dict[str, float]:
    """Return value − limit for each budgeted meter, sorted by name as the GP sampler needs; ≤ 0 is feasible."""
    directions = {m.name: m.direction for m in (*experiment.instantiation.costs, *experiment.instantiation.qualities)}
    found = {}
    for name, limit in sorted(experiment.config.budget.items()):
        value = float(point.readings[name][0] or 0.0)
        found[name] = value - limit if directions[name] == "minimize" else limit - value
    return found
