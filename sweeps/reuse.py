"""A changed space: a new study that takes over the finished trials of an older one, written in the new knobs."""

from pathlib import Path

import optuna
from optuna.trial import TrialState

from sweeps.errors import SweepError
from sweeps.experiment import Experiment
from sweeps.space import distributions, to_params, to_sequence
from sweeps.storage import open_storage
from sweeps.study import BASE, IDENTITY, OWNER, constraints, differences, is_asked, record_of


def take_over(study: optuna.Study, experiment: Experiment, folder: Path) -> tuple[int, int] | None:
    """Add the finished trials of the study that `reuse` names to a study that is still empty.

    A knob the old space did not have stands at its neutral value, and one the new space lacks has to. Numbers, points
    and readings stay as they are; what no vector of the new space stands for stays in the old study alone.

    Returns:
        How many were taken over, of how many; None where there is nothing to do.

    Raises:
        SweepError: there is no such study, or more than its space differs.
    """
    name = experiment.config.reuse
    if name is None or study.get_trials(deepcopy=False):
        return None
    if experiment.searches_policy:
        raise SweepError("reuse takes over knob vectors, not the parameters of a policy")
    old = _open(name, experiment, folder)
    known, now = (
        {k: v for k, v in dict(i).items() if k != "space"} for i in (old.user_attrs[IDENTITY], experiment.identity)
    )
    if changes := list(differences(known, now)):
        raise SweepError(f"reuse={name}: more than its space differs: {'; '.join(changes[:6])}")
    study.set_user_attr(BASE, old.user_attrs[BASE])
    finished = [t for t in old.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE and is_asked(t)]
    taken = 0
    for trial in finished:
        sequence = to_sequence(experiment.instantiation, trial.params)
        params = to_params(experiment.instantiation, experiment.space, sequence)
        final = record_of(trial, taken).final
        if params is None or final is None:
            continue
        study.add_trial(
            optuna.trial.create_trial(
                values=trial.values,
                params=params,
                distributions=distributions(experiment.space),
                user_attrs={**trial.user_attrs, OWNER: {"number": taken, "study": name}},
                constraints=constraints(experiment, final) or None,
            )
        )
        taken += 1
    return taken, len(finished)


def _open(name: str, experiment: Experiment, folder: Path) -> optuna.Study:
    place = folder.parent / name
    if experiment.config.storage is None and not place.is_dir():
        raise SweepError(f"reuse={name}: there is no study in {place}")
    try:
        old = optuna.load_study(study_name=name, storage=open_storage(experiment.config.storage, place))
    except KeyError as error:
        raise SweepError(f"reuse={name}: the storage holds no study of that name") from error
    if IDENTITY not in old.user_attrs or BASE not in old.user_attrs:
        raise SweepError(f"reuse={name}: nothing has been measured in that study")
    return old
