"""Opening of a study: created in Optuna's storage, or resumed by the same experiment only."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from kmr.core import Seconds, Step
from sweeps.errors import SweepError
from sweeps.experiment.config import with_names_of_now
from sweeps.experiment.data_changes import named_changes, parts_of
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.instantiate import part
from sweeps.experiment.renamed_entries import with_loss_of_now
from sweeps.experiment.study_code import check_code, code_of, keep_code
from sweeps.search.proposals.choose_sampler import seed_after
from sweeps.search.space import grid
from sweeps.search.study.attributes import BASE, CODE, DATA, IDENTITY
from sweeps.search.study.point import Point
from sweeps.search.study.storage import open_storage

LOCK = ".lock"
"""The file in a run folder that a running sweep locks."""


def run_folder(output_dir: str, name: str) -> Path:
    """Return the study's folder; create it if it is missing.

    Raises:
        SweepError: the name is not a folder name, a file is in the way, or the folder cannot be written.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise SweepError(f"name must be a folder name without slashes or a leading dot, not {name!r}")
    folder = Path(output_dir).expanduser().absolute() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write").touch()
        (folder / ".write").unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise SweepError(
            f"cannot create the folder {folder}: a file is in the way; choose another output_dir or name"
        ) from error
    except OSError as error:
        raise SweepError(f"cannot write to {folder}: {error.strerror}; choose another output_dir") from error
    return folder


def open_study(experiment: Experiment, folder: Path) -> optuna.Study:
    """Create the study, or resume it if the experiment is the same.

    Raises:
        SweepError: the storage cannot be reached, or its study of this name was made with another config.
    """
    config = experiment.config
    storage = open_storage(config.storage, folder)
    try:
        study = optuna.create_study(
            study_name=config.name, storage=storage, directions=experiment.directions, load_if_exists=True
        )
    except ValueError as error:
        raise SweepError(f"study {config.name} has other objectives: choose another name=… ({error})") from error
    known = study.user_attrs.get(IDENTITY)
    if known is None or BASE not in study.user_attrs:  # nothing has been measured in it yet
        study.set_user_attr(IDENTITY, dict(experiment.identity))
        study.set_user_attr(CODE, code_of(experiment))
        study.set_user_attr(DATA, parts_of(experiment.data, config.seed))
    else:
        _check(study, experiment, known)
    study.sampler = make_sampler(experiment, len(study.get_trials(deepcopy=False)))
    return study


def _check(study: optuna.Study, experiment: Experiment, known: Mapping[str, Any]) -> None:
    """Raise `SweepError` unless a study can be continued with an experiment; mark an accepted change of its code."""
    name = study.study_name
    changes = _changes(known, experiment.identity)
    then, now = (entries.get("device", "cpu") for entries in (known, experiment.identity))
    if then != now:
        raise SweepError(
            f"study {name} ran on {then}, and this run is on {now}, which gives other numbers: set device={then}, or "
            "start a new study with name=…"
        )
    # Other code may make other weights or data, and is then what to name.
    entries = {change.split(" ")[0] for change in changes}
    made = entries <= {"weights_digest", "data_digest"}
    changed = check_code(study, experiment, f"study {name}") if made else ()
    if entries == {"weights_digest"}:
        raise SweepError(
            f"study {name} was made from a base model with other weights: model._target_ makes new ones "
            "each time. Save them once and set weights=<file>.safetensors, or start a new study with name=…"
        )
    if made and "data_digest" in entries:
        then = study.user_attrs.get(DATA)
        what = "" if then is None else f" ({named_changes(then, parts_of(experiment.data, experiment.config.seed))})"
        raise SweepError(
            f"study {name} was made from other data: data._target_ makes other samples than before{what}. Restore "
            "them, start a new study with name=…, or, where samples are drawn anew at every start, name their "
            "version in data_identity when the study begins"
        )
    if changes:
        shown = "; ".join(changes[:6]) + (f"; and {len(changes) - 6} more" if len(changes) > 6 else "")
        alone = all(change.startswith("space") for change in changes)
        reuse = f" reuse={name} (it reuses the trials that fit)" if alone else ""
        raise SweepError(
            f"study {name} was made with another config: {shown}. "
            f"Start a new study with name=…{reuse}, or restore the config"
        )
    keep_code(study, experiment, changed)


def _changes(known: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Return the differences between a study's config and an experiment's."""
    return list(differences(with_loss_of_now(with_names_of_now(known)), with_loss_of_now(identity)))


def with_base(study: optuna.Study, experiment: Experiment) -> Experiment:
    """Measure the base model and store its readings in the study, or use those of an earlier run."""
    known = study.user_attrs.get(BASE)
    if known is None:
        study.set_user_attr(BASE, asdict(Point.of(0, experiment.base)))
        return experiment
    point = Point(**known)
    readings = point.to_readings()
    split = [
        {meter.name: readings[meter.name] for meter in meters}
        for meters in (experiment.instantiation.costs, experiment.instantiation.qualities)
    ]
    step = Step(None, point.moves, split[0], split[1], Seconds(**point.seconds))
    return experiment.with_base(step)


def make_sampler(experiment: Experiment, trials_so_far: int) -> optuna.samplers.BaseSampler:
    """Make the configured sampler; its seed depends on the trials so far, so that a resumed study repeats no draws."""
    seed = seed_after(experiment.config.seed, trials_so_far)
    trusted = experiment.config.trusted_modules
    config = experiment.plain["sampler"]
    live = {"seed": seed, "search_space": grid(experiment.space), "space": experiment.space}
    live["trials"] = experiment.config.trials
    if trials_so_far and str(config.get("_target_", "")).endswith(("QMCSampler", "GridSampler")):
        live["seed"] = experiment.config.seed  # these continue one fixed sequence
    sampler = part("sampler", config, trusted, **live)
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise SweepError(f"sampler: a {type(sampler).__name__} is not an Optuna sampler; choose one with sampler=…")
    return sampler


def differences(known: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield every entry that differs between two nested configs, with both values."""
    if isinstance(known, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*known, *now)):
            yield from differences(known.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif known != now:
        yield f"{path or 'config'} was {_short(known)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
