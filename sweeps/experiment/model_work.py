"""Work of a sweep: evaluate trials, and save the models that may join the front."""

import errno
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from analysis.pareto.dominance import non_dominated
from kmr.artifact import folder as artifact
from kmr.core import KMRError, NotApplicable, Step
from sweeps.errors import SweepError, describe
from sweeps.experiment.evaluation import evaluate
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.fidelity import Fidelities, fidelities_of
from sweeps.search.execution.work import Job, Tell
from sweeps.search.study.point import NOTHING_RECALLED, Ended, MeasuredModel, Point, Recalled
from sweeps.search.study.trial_state import TrialState

STAGING = ".staging"
"""The subfolder, in the study's folder, for artifacts of models that have not joined the front yet."""


class ModelWork:
    """Evaluation of an experiment's trials, in this process or a worker.

    Args:
        experiment: the experiment to search.
        folder: the study's folder; artifacts of models that may join the front go to its staging folder.
        fidelities: the low fidelities at which a trial is measured first.
        note: a note for every model of these trials.
    """

    def __init__(
        self, experiment: Experiment, folder: Path, fidelities: Fidelities | None = None, note: str | None = None
    ) -> None:
        self._experiment, self._folder, self._fidelities, self._note = experiment, folder, fidelities, note

    def __call__(self, job: Job, tell: Tell) -> Ended:
        experiment, folder, fidelities = self._experiment, self._folder, self._fidelities
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
            if self._note is not None:
                point = replace(point, notes=[*point.notes, self._note])
            values = tuple(point.values(names))
            staged, problem = None, None
            if bool(non_dominated(np.array([*front, values]), experiment.directions)[-1]):
                front.append(values)
                try:
                    staged = save_artifact(experiment, folder / STAGING / f"{job.number}.{point.step}", point, model)
                except KMRError as error:
                    problem = str(error)
            tell(MeasuredModel(job.number, point, staged, problem))

        def ended(
            state: TrialState,
            error: str | None = None,
            overhead: float = 0.0,
            notes: Sequence[str] = (),
            low: Point | None = None,
        ) -> Ended:
            found = [cache.counts.since(then) for cache, then in zip(caches, before, strict=True)]
            recalled = sum((Recalled(each.hits, each.misses, each.seconds_saved) for each in found), NOTHING_RECALLED)
            seconds = time.perf_counter() - started
            return Ended(job.number, state, error, seconds, overhead, tuple(notes), recalled, low)

        try:
            if fidelities is not None and job.rung < len(fidelities.experiments):
                return ended(TrialState.RUNNING, low=fidelities.look(job.rung, job.params))
            evaluation = evaluate(experiment, job.params, on_point)
            return ended(TrialState.COMPLETE, None, evaluation.overhead, evaluation.notes)
        except NotApplicable as error:
            return ended(TrialState.INFEASIBLE, str(error))
        except SweepError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # a full disk is not the trial's fault
            return ended(TrialState.FAILED, describe(error))
        except Exception as error:  # a user's code or a rule may raise anything; other trials are not affected
            return ended(TrialState.FAILED, describe(error))

    @property
    def recipe(self) -> Callable[[], "ModelWork"]:
        experiment = self._experiment
        weights = experiment.identity["weights_digest"]
        return _Recipe(dict(experiment.plain), experiment.base, weights, self._folder, self._note)


@dataclass(frozen=True)
class _Recipe:
    """The recipe for rebuilding an experiment in another process, with a check that the weights are the same."""

    plain: Mapping[str, Any]
    base: Step
    weights: str
    folder: Path
    note: str | None

    def __call__(self) -> ModelWork:
        import torch
        from omegaconf import OmegaConf

        from sweeps.experiment.build_experiment import build_experiment
        from sweeps.experiment.config import Config, threads_of

        config = cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), dict(self.plain))))
        torch.set_num_threads(threads_of(config))
        experiment = build_experiment(config, self.plain).with_base(self.base)
        if experiment.identity["weights_digest"] != self.weights:
            raise SweepError("model._target_ makes different weights in each process: save them once and set weights=…")
        return ModelWork(experiment, self.folder, fidelities_of(experiment), self.note)


def save_artifact(experiment: Experiment, place: Path, point: Point, model: nn.Module) -> Path:
    """Save a measured model as a loadable artifact; return its folder.

    Raises:
        KMRError: the model cannot be saved in a form that loads exactly.
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
