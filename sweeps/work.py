"""One trial's work, wherever it is done: what is handed to a worker, and what it tells as it goes."""

import errno
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import nn

from analysis.front import non_dominated
from kmr import artifact
from kmr.core import KMRError, NotApplicable, Value
from sweeps.errors import SweepError
from sweeps.experiment import Experiment
from sweeps.fidelity import Fidelities, Halted
from sweeps.trial import NOTHING_RECALLED, Evaluation, Point, Recalled, evaluate

STAGING = ".staging"
"""The folder, in the study's, of artifacts that have not been taken on the front yet."""


@dataclass(frozen=True)
class Job:
    """A trial to do: its number, its vector, and the objectives' values of the front when it was handed out."""

    number: int
    params: Mapping[str, Value]
    front: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Measured:
    """A model was measured; `staged` is its artifact where it may join the front, `problem` why it has none."""

    number: int
    point: Point
    staged: Path | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Ended:
    """A trial is over: complete with its evaluation; or failed, infeasible, pruned or lost, with the reason."""

    number: int
    state: str
    evaluation: Evaluation | None = None
    error: str | None = None
    seconds: float = 0.0
    recalled: Recalled = NOTHING_RECALLED


Told: TypeAlias = Measured | Ended
Tell: TypeAlias = Callable[[Told], None]


def perform(experiment: Experiment, job: Job, folder: Path, tell: Tell, fidelities: Fidelities | None = None) -> Ended:
    """Do a job: tell of every model as it is measured, and return how the trial ended.

    Args:
        experiment: what is searched.
        job: the trial.
        folder: the study's; artifacts of models that may join the front are written to its staging folder.
        tell: takes each `Measured`.
        fidelities: stops the trial at a low fidelity where it does not look worth going on.
    """
    started = time.perf_counter()
    caches = [
        each.prefixes
        for each in (experiment, *(fidelities.experiments if fidelities is not None else ()))
        if each.prefixes is not None
    ]
    before = [cache.counts for cache in caches]
    front = list(job.front)
    names = [meter.name for meter in experiment.objectives]

    def on_point(point: Point, model: nn.Module) -> None:
        values = tuple(point.values(names))
        staged, problem = None, None
        if bool(non_dominated(np.array([*front, values]), experiment.directions)[-1]):
            front.append(values)
            try:
                staged = save_artifact(experiment, folder / STAGING / f"{job.number}.{point.step}", point, model)
            except KMRError as error:
                problem = str(error)
        tell(Measured(job.number, point, staged, problem))

    def ended(state: str, evaluation: Evaluation | None = None, error: str | None = None) -> Ended:
        found = [cache.counts.since(then) for cache, then in zip(caches, before, strict=True)]
        recalled = sum((Recalled(each.hits, each.misses, each.seconds_saved) for each in found), NOTHING_RECALLED)
        return Ended(job.number, state, evaluation, error, time.perf_counter() - started, recalled)

    try:
        if fidelities is not None and not experiment.searches_policy:
            fidelities.check(experiment, job.number, job.params)
        return ended("complete", evaluate(experiment, job.params, on_point))
    except Halted as halt:
        return ended("pruned", error=str(halt))
    except NotApplicable as error:
        return ended("infeasible", error=str(error))
    except SweepError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the disk is to blame, not the trial
        return ended("failed", error=f"{type(error).__name__}: {one_line(error)}")
    except Exception as error:  # a user's code or a rule may raise anything, and no other trial is to blame
        return ended("failed", error=f"{type(error).__name__}: {one_line(error)}")


def save_artifact(experiment: Experiment, place: Path, point: Point, model: nn.Module) -> Path:
    """Save a measured model as a loadable artifact; return its folder.

    Raises:
        KMRError: the model cannot be saved so that it comes back exactly.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    artifact.save(
        place,
        model,
        base=experiment.model,
        builder=experiment.builder,
        sequence=point.moves,
        readings=point.to_readings(),
        extra={"study": experiment.config.name, "point": place.name, **experiment.usage},
    )
    return place


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 400 characters."""
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 400 else text[:397] + "…"
