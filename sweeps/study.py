"""The study: Optuna's storage as the one truth, and the records read from it.

What a trial measured is kept in its user attributes, so that the results table, the report and MLflow can be written
again from the storage alone. Intermediate models are told to the study as finished trials of their own, marked with the
trial they come from.
"""

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kmr.core import Seconds, Step, Value
from sweeps.build import part
from sweeps.errors import SweepError
from sweeps.experiment import Experiment
from sweeps.propose import PROPOSAL
from sweeps.sampling import seed_after
from sweeps.shown import INTERMEDIATE_OF
from sweeps.space import distributions, grid, to_params
from sweeps.storage import open_storage
from sweeps.trial import NOTHING_RECALLED, Evaluation, Point, Recalled

_OUTCOME = "kmr:outcome"
IDENTITY = "kmr:identity"
OWNER = "kmr:owner"
_ATTEMPTS = "kmr:attempts"
_LEASE = 24 * 3600
"""Seconds after which a trial of another host is taken for dead."""
MOST_ATTEMPTS = 3
"""How often a trial is tried whose process dies."""
_GRACE = 10
"""Seconds in which a trial that names no owner may be one just asked for."""
_ID = "kmr:id"

BASE = "kmr:base"


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


def run_folder(output_dir: str, name: str) -> Path:
    """Return the study's folder, made if need be.

    Raises:
        SweepError: the name is not one of a folder, a file is in the way, or the folder cannot be written.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise SweepError(f"name must be that of a folder under output_dir, not {name!r}")
    folder = Path(output_dir).expanduser().absolute() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write").touch()
        (folder / ".write").unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise SweepError(
            f"{folder} cannot be a folder, a file is in the way: choose another output_dir or name"
        ) from error
    except OSError as error:
        raise SweepError(f"cannot write to {folder}: {error.strerror}; choose another output_dir") from error
    return folder


def open_study(experiment: Experiment, folder: Path) -> optuna.Study:
    """Create the study, or open it again if it is the same experiment.

    Raises:
        SweepError: the storage cannot be reached, or holds a study of this name made from another config.
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
    elif changes := list(differences(known, experiment.identity)):
        if [change.split(" ")[0] for change in changes] == ["weights_digest"]:
            raise SweepError(
                f"study {config.name} was made from a base model with other weights: model._target_ gives others each "
                "time. Save them once and set weights=<file>.safetensors, or start a new study with name=…"
            )
        shown = "; ".join(changes[:6]) + (f"; and {len(changes) - 6} more" if len(changes) > 6 else "")
        alone = all(change.startswith("space") for change in changes)
        reuse = f" reuse={config.name} (it takes over the trials that fit)" if alone else ""
        raise SweepError(
            f"study {config.name} was made with another config: {shown}. "
            f"Start a new study with name=…{reuse}, or go back"
        )
    study.sampler = make_sampler(experiment, len(study.get_trials(deepcopy=False)))
    return study


def with_base(study: optuna.Study, experiment: Experiment) -> Experiment:
    """Measure the base model and keep its readings with the study, or take those of an earlier start."""
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
    return replace(experiment, known_base=step)


def make_sampler(experiment: Experiment, trials_so_far: int) -> optuna.samplers.BaseSampler:
    """Make the configured sampler; its seed depends on the trials so far, so that resuming does not repeat draws."""
    seed = seed_after(experiment.config.seed, trials_so_far)
    trusted = experiment.config.trusted_modules
    config = experiment.plain["sampler"]
    live = {"seed": seed, "search_space": grid(experiment.space), "space": experiment.space}
    live["trials"] = experiment.config.trials
    if trials_so_far and str(config.get("_target_", "")).endswith(("QMCSampler", "GridSampler")):
        live["seed"] = experiment.config.seed  # these continue one fixed sequence
    sampler = part("sampler", config, trusted, **live)
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise SweepError(f"sampler made a {type(sampler).__name__}, which is not an Optuna sampler")
    return sampler


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
    trial.set_user_attr(_OUTCOME, outcome)
    for name, value in constraints(experiment, final).items():
        trial.set_constraint(name, value)
    _tell(study, trial, values=final.values([meter.name for meter in experiment.objectives]))


def abandon(
    study: optuna.Study,
    trial: optuna.Trial,
    state: str,
    error: str,
    points: Sequence[Point],
    seconds: float,
    recalled: Recalled = NOTHING_RECALLED,
) -> None:
    """Close a trial that gave no result; what it measured before is kept."""
    outcome = {"state": state, "error": error, "finished": now(), "seconds": seconds, "recalled": asdict(recalled)}
    trial.set_user_attr(_OUTCOME, {**outcome, "points": [asdict(point) for point in points]})
    _tell(study, trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)


def _tell(study: optuna.Study, trial: optuna.Trial, **how: Any) -> None:
    try:
        study.tell(trial, **how)
    except RuntimeError as error:
        # A sampler that has nothing left asks `optimize` to stop; here there is none, and the trial is told already.
        if "Study.stop" not in str(error):
            raise


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


def claim(study: optuna.Study, trial: optuna.Trial) -> int:
    """Say who runs a trial, so that another run can tell whether it is still alive; return the trial's number."""
    number = _number(study.get_trials(deepcopy=False)[: trial.number])
    owner = {
        "number": number,
        "host": platform.node(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "expires": time.time() + _LEASE,
    }
    trial.set_user_attr(OWNER, owner)
    return number


def _number(before: Sequence[FrozenTrial]) -> int:
    """Return how many of these were asked for, counted back to the last whose number is known."""
    asked = 0
    for trial in reversed(before):
        if OWNER in trial.user_attrs:
            return int(trial.user_attrs[OWNER]["number"]) + 1 + asked
        asked += INTERMEDIATE_OF not in trial.user_attrs
    return asked


def put_back(
    study: optuna.Study,
    trial: optuna.Trial | FrozenTrial,
    error: str,
    points: Sequence[Point] = (),
    seconds: float = 0.0,
    *,
    count: bool = True,
) -> bool:
    """Close a trial that did not get to its end, and put its vector first in the queue.

    Args:
        study: of the trial.
        trial: running.
        error: what happened to it.
        points: what it had measured.
        seconds: it ran.
        count: whether this is an attempt that went wrong; after `MOST_ATTEMPTS` of those the trial has failed.

    Returns:
        Whether it is tried again.
    """
    frozen = study.get_trials(deepcopy=False)[trial.number]
    attempts = int(frozen.user_attrs.get(_ATTEMPTS, 0)) + count
    again = attempts < MOST_ATTEMPTS
    outcome = {
        "state": "interrupted" if again else "failed",
        "error": error if again else f"given up after {attempts} attempts: {error}",
        "finished": now(),
        "seconds": seconds,
        "points": [asdict(point) for point in points],
    }
    study._storage.set_trial_user_attr(frozen._trial_id, _OUTCOME, outcome)
    study.tell(trial.number, state=TrialState.FAIL)
    # One whose process died while it was drawn has no parameters yet, but its vector where it was enqueued.
    vector = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
    if again and vector:
        study.enqueue_trial(vector, user_attrs={_ATTEMPTS: attempts})
    return again


def reclaim(study: optuna.Study, alone: bool) -> int:
    """Fail the trials a dead run left running and queue their vectors again; return how many.

    Args:
        study: at its start.
        alone: no other run can be at work in this study, so that whatever is running was left by a dead one.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    stale = [trial for trial in running if alone or not _may_be_alive(trial)]
    for trial in stale:
        put_back(study, trial, "the run ended before it")
    return len(stale)


def _may_be_alive(trial: FrozenTrial) -> bool:
    owner = trial.user_attrs.get(OWNER)
    if owner is None:
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else _LEASE
        return age < _GRACE
    if owner["host"] != platform.node():
        return time.time() < float(owner.get("expires", 0.0))
    # On this machine the process itself is asked, so that a clock that jumps ends no lease.
    if owner["pid"] == os.getpid():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return owner.get("born") in (None, _born(owner["pid"]))


def _born(pid: int) -> str | None:
    """Return when a process began, in the system's own count, which tells it from a later one of the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def is_asked(trial: FrozenTrial) -> bool:
    """Tell whether a trial was asked for and tried: no intermediate model, and not turned down before its training."""
    turned_down = trial.user_attrs.get(PROPOSAL, {}).get("screened") is not None and _OUTCOME not in trial.user_attrs
    return INTERMEDIATE_OF not in trial.user_attrs and not turned_down


def turned_down(study: optuna.Study) -> dict[str, int]:
    """Count the vectors that were told to the sampler without training, by reason."""
    counts: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        how = trial.user_attrs.get(PROPOSAL, {})
        if (reason := how.get("screened")) not in (None, "exhausted") and _OUTCOME not in trial.user_attrs:
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
    outcome = dict(trial.user_attrs.get(_OUTCOME) or {"state": "failed", "error": "left no record"})
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


def constraints(experiment: Experiment, point: Point) -> dict[str, float]:
    """Return value − limit for each budgeted meter, sorted by name as the GP sampler needs; ≤ 0 is feasible."""
    directions = {m.name: m.direction for m in (*experiment.instantiation.costs, *experiment.instantiation.qualities)}
    found = {}
    for name, limit in sorted(experiment.config.budget.items()):
        value = float(point.readings[name][0] or 0.0)
        found[name] = value - limit if directions[name] == "minimize" else limit - value
    return found


def differences(known: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield, for every entry of two nested configs that is not the same, which it is and both values."""
    if isinstance(known, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*known, *now)):
            yield from differences(known.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif known != now:
        yield f"{path or 'config'} was {_short(known)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def study_id(study: optuna.Study) -> str:
    """Return an identifier of the study that is the same each time it is opened and no other study's."""
    if _ID not in study.user_attrs:
        study.set_user_attr(_ID, uuid.uuid4().hex)
    return str(study.user_attrs[_ID])
