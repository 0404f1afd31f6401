"""Reuse of an older study's finished trials by a study with another space."""

from pathlib import Path

import optuna

from sweeps.errors import SweepError, unknown
from sweeps.experiment.config import with_names_of_now
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.experiment_proposer import problem_of
from sweeps.experiment.knob_space import to_params, to_sequence
from sweeps.experiment.open_study import LOCK, differences
from sweeps.experiment.study_code import check_code, keep_code
from sweeps.search.study.attributes import BASE, IDENTITY, OWNER, REUSED
from sweeps.search.study.journal import JOURNAL, journal_to_read
from sweeps.search.study.record import add_copy, records
from sweeps.search.study.storage import open_storage

_WAS = "was"
"""The key for a reused trial's old number, next to its new one."""


def take_over(study: optuna.Study, experiment: Experiment, folder: Path) -> tuple[int, int] | None:
    """Copy the finished trials of the study that `reuse` names into a study without trials of its own.

    A knob that is new takes its neutral value. A trial is copied only if every knob that the new space lacks is neutral
    in it, and a duplicate of a trial that is not copied becomes complete. Points and readings do not change. An
    interrupted copy resumes where it stopped.

    Returns:
        The numbers of reused and of finished trials; None if there is nothing to do.

    Raises:
        SweepError: there is no such study, or it differs in more than its space.
    """
    asked = experiment.config.reuse
    owners = [trial.user_attrs.get(OWNER, {}) for trial in study.get_trials(deepcopy=False)]
    if asked is None or REUSED in study.user_attrs or not all(_WAS in owner for owner in owners):
        return None
    place, name = _named(asked, folder, by_path=experiment.config.storage is None)
    if experiment.searches_policy:
        raise SweepError("reuse works with knob vectors, not with the parameters of a policy: set reuse=null")
    old = _open(asked, name, place, experiment.config.storage)
    known, now = (
        {k: v for k, v in dict(i).items() if k != "space"}
        for i in (with_names_of_now(old.user_attrs[IDENTITY]), experiment.identity)
    )
    if changes := list(differences(known, now)):
        raise SweepError(f"reuse={asked}: that study differs in more than its space: {'; '.join(changes[:6])}")
    changed = check_code(old, experiment, f"reuse={asked}: that study")
    study.set_user_attr(BASE, old.user_attrs[BASE])
    problem = problem_of(experiment)
    numbers = {owner[_WAS]: owner["number"] for owner in owners}
    trials = old.get_trials(deepcopy=False)
    finished = [record for record in records(old) if record.state.has_result]
    for record in finished:
        sequence = to_sequence(experiment.instantiation, record.params)
        params = to_params(experiment.instantiation, experiment.space, sequence)
        if record.number in numbers or params is None or record.final is None:
            continue
        number, values = len(numbers), trials[record.optuna_number].values
        owner = {"number": number, "study": name, _WAS: record.number}
        origin = None if record.duplicate_of is None else numbers.get(record.duplicate_of)
        add_copy(study, problem, record, values, params, owner, origin)
        numbers[record.number] = number
    if changed:
        keep_code(study, experiment, changed)
    study.set_user_attr(REUSED, name)
    return len(numbers), len(finished)


def _named(asked: str, folder: Path, *, by_path: bool) -> tuple[Path, str]:
    """Return the folder and the name of a study that is given by its name, or by its folder (runs/<study>)."""
    beside = folder.parent / asked
    given = Path(asked).expanduser().absolute()
    place = given if by_path and not beside.is_dir() and given.is_dir() else beside
    return place, Path(asked).name


def _open(asked: str, name: str, place: Path, storage: str | None) -> optuna.Study:
    if storage is None and not (place.is_dir() and any(path.name != LOCK for path in place.iterdir())):
        known = sorted(path.parent.name for path in place.parent.glob(f"*/{JOURNAL}")) if place.parent.is_dir() else []
        raise SweepError(f"reuse={asked}: there is no study in {place}{unknown(name, known) if known else ''}")
    try:
        kept = journal_to_read(place) if storage is None else open_storage(storage, place)
        old = optuna.load_study(study_name=name, storage=kept)
    except KeyError as error:
        raise SweepError(f"reuse={asked}: the storage holds no study of that name") from error
    if IDENTITY not in old.user_attrs or BASE not in old.user_attrs:
        raise SweepError(f"reuse={asked}: that study has no measured model; name another one")
    return old
