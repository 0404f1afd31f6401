"""How the outcome of a trial is told to its study."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import optuna
from optuna.trial import TrialState

from sweeps.jobs import Ended
from sweeps.search.problem import Problem
from sweeps.search.proposals.proposer import tell
from sweeps.search.study.attributes import OUTCOME
from sweeps.search.study.point import Point
from sweeps.search.study.record import now


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
