"""An experiment whose trials take no time: rules that scale a linear layer, a cost and a quality that add it up."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import optuna
import torch
from rich.console import Console
from torch import nn

from kmr.artifact.folder import Builder
from kmr.core import Cost, FloatRange, Instantiation, Knob, Quality, Reading, Rule
from kmr.data import as_data
from kmr.finetune import FineTune
from sweeps.experiment.compression import Compression
from sweeps.experiment.config import Config
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.model_work import ModelWork
from sweeps.experiment.open_study import make_sampler
from sweeps.experiment.saved_front import SavedFront
from sweeps.experiment.sweep import Sweep
from sweeps.search.execution.executors import Executor, InProcess
from sweeps.search.execution.interrupts import Interrupts
from sweeps.terminal.progress import SweepProgress, TrialProgress


@dataclass(frozen=True, kw_only=True)
class Halve(Rule):
    """Multiplies every parameter by 1 − v/2."""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return (Knob(f"{self.name}.by", FloatRange(0.0, 1.0, neutral=0.0)),)

    def apply(self, model, knob, value):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 - float(value) / 2)
        return model


@dataclass(frozen=True, kw_only=True)
class Half(Halve):
    """The same, with v rounded to whole halves."""

    def apply(self, model, knob, value):
        return super().apply(model, knob, round(2 * float(value) - 0.2) / 2)


@dataclass(frozen=True, kw_only=True)
class Total(Cost):
    """Σ|w|."""

    static: ClassVar[bool] = True
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(sum(p.abs().sum() for p in seen.parameters())))


@dataclass(frozen=True, kw_only=True)
class Mean(Quality):
    """The mean of |w|: rises with the cost, so that every trial may join the front."""

    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(torch.cat([p.abs().flatten() for p in seen.parameters()]).mean()))


def tiny_experiment(
    rules: tuple[Rule, ...] = (Halve(name="first"), Halve(name="second")),
    costs: tuple[Cost, ...] = (Total(name="total"),),
    qualities: tuple[Quality, ...] = (Mean(name="mean"),),
    space: Mapping[str, Any] | None = None,
    plain: Mapping[str, Any] | None = None,
    **config: Any,
) -> Experiment:
    """Make the experiment; `config` goes to `Config`."""
    x, y = torch.zeros(8, 4), torch.zeros(8, dtype=torch.long)
    data = as_data({"train": (x, y), "validation": (x, y), "test": (x, y)}, 8)
    instantiation = Instantiation("tiny", rules, costs, qualities)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
    objectives = [costs[0].name, qualities[0].name]
    checked = Config(**{"name": "tiny", "trials": 8, "objectives": objectives, **config})
    compression = Compression(
        model, instantiation, FineTune(data=data.train, steps=0), space, objectives=objectives,
        limited=tuple(checked.limits),
    )  # fmt: skip
    return Experiment(
        config=checked,
        plain={"sampler": {"_target_": "optuna.samplers.RandomSampler"}, **(plain or {})},
        compression=compression,
        data=data,
        space=compression.space,
        test_qualities=qualities,
        builder=Builder("torch.nn.Linear", {"in_features": 4, "out_features": 2}),
        identity={},
    )


def study_of(experiment: Experiment, storage: Any = None) -> optuna.Study:
    """Make or open the study of an experiment."""
    study = optuna.create_study(
        study_name="tiny", storage=storage, directions=experiment.directions, load_if_exists=True
    )
    study.sampler = make_sampler(experiment, len(study.get_trials(deepcopy=False)))
    return study


def sweep_of(experiment: Experiment, study: optuna.Study, folder: Path) -> Sweep:
    """Make a sweep whose front is saved in a folder."""
    return Sweep(experiment, study, SavedFront(experiment, folder))


def run(
    experiment: Experiment, study: optuna.Study, folder: Path, trials: int, executor: Executor | None = None
) -> tuple[Sweep, str | None, str]:
    """Run a sweep up to so many trials; return it, why it ended earlier, and what it printed."""
    sweep = sweep_of(experiment, study, folder)
    console = Console(file=io.StringIO(), width=200, record=True)
    with SweepProgress(console, sweep.finished, trials) as progress:
        work = executor or InProcess(ModelWork(experiment, folder))
        why = sweep.run(trials, work, Interrupts(), [TrialProgress(progress, sweep)], progress.say)
    return sweep, why, console.export_text()
