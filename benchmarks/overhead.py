"""What the harness costs per trial, beside a bare Optuna + MLflow loop that does the same logging.

Both sides run the same number of trials over the same three knobs with the same sampler and storages in new folders. A
trial's model is a fixed tiny linear layer, so that rules, fine-tuning and meters take next to nothing. Ours is the wall
time of the whole search (proposing, evaluating, telling, logging, saving front members) less the seconds the engine
charged to rules, fine-tuning and meters. Bare is an `ask`/`tell` loop on a journal file with one MLflow run per trial,
logged in one batch.

Bar: at most 50 ms of overhead per trial.

    python -m benchmarks.overhead [--quick]
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import optuna
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kmr.artifact import Builder
from kmr.core import Cost, FloatRange, Instantiation, Knob, Quality, Reading, Rule, Value
from kmr.data import as_data
from kmr.finetune import FineTune
from sweeps.config import Config
from sweeps.driver import Sweep
from sweeps.experiment import Experiment
from sweeps.interrupt import Interrupts
from sweeps.progress import SweepProgress
from sweeps.space import distributions, search_space
from sweeps.study import open_study, run_folder, study_id
from sweeps.tracking import Tracker
from sweeps.workers import InProcess

BAR_MS = 50.0


@dataclass(frozen=True, kw_only=True)
class Shrink(Rule):
    """Scales the weights: the cheapest rule there can be."""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """One knob in [0, 1]."""
        return (Knob(f"{self.name}.by", FloatRange(0.0, 1.0, neutral=0.0)),)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        """Multiply every parameter by 1 − v/2."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 - float(value) / 2)
        return model


@dataclass(frozen=True, kw_only=True)
class Norm(Cost):
    """Σ|w|."""

    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        """Sum the absolute parameters."""
        return Reading(float(sum(p.abs().sum() for p in seen.parameters())))


@dataclass(frozen=True, kw_only=True)
class Mean(Quality):
    """Mean of the parameters' absolute values: rises with the cost, so that every trial may join the front."""

    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        """Average the absolute parameters."""
        return Reading(float(torch.cat([p.abs().flatten() for p in seen.parameters()]).mean()))


def tiny_experiment(folder: Path, trials: int) -> Experiment:
    """Make an experiment whose trials do almost nothing."""
    x, y = torch.zeros(8, 4), torch.zeros(8, dtype=torch.long)
    data = as_data({"train": (x, y), "validation": (x, y), "test": (x, y)}, 8)
    torch.manual_seed(0)
    rules = tuple(Shrink(name=name) for name in ("first", "second", "third"))
    instantiation = Instantiation("overhead", rules, (Norm(name="norm"),), (Mean(name="mean"),))
    plain: Mapping[str, Any] = {"sampler": {"_target_": "optuna.samplers.TPESampler", "multivariate": True}}
    return Experiment(
        config=Config(name="overhead", output_dir=str(folder), trials=trials, objectives=["norm", "mean"]),
        plain=plain,
        model=nn.Linear(4, 2),
        data=data,
        instantiation=instantiation,
        space=search_space(instantiation, {}),
        objectives=(*instantiation.costs, *instantiation.qualities),
        test_qualities=instantiation.qualities,
        finetune=FineTune(data=data.train, steps=0),
        builder=Builder("torch.nn.Linear", {"in_features": 4, "out_features": 2}),
        identity={},
    )


def ours(folder: Path, trials: int) -> tuple[float, float]:
    """Return overhead and wall milliseconds per trial of the harness."""
    experiment = tiny_experiment(folder, trials)
    home = run_folder(str(folder), "overhead")
    study = open_study(experiment, home)
    tracker = Tracker(None, "overhead", study_id(study), home, print)
    tracker.start({"name": "overhead"}, {}, "name: overhead")
    tracker.flush()
    sweep = Sweep(experiment, study, home, tracker)
    quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    start = time.perf_counter()
    with SweepProgress(quiet, 0, trials) as progress:
        sweep.run(trials, InProcess(experiment, home), progress, Interrupts())
    tracker.flush()
    wall = time.perf_counter() - start
    tracker.close("FINISHED")
    work = sum(p.seconds["rule"] + p.seconds["finetune"] + p.seconds["meter"] for r in sweep.records for p in r.points)
    return 1000 * (wall - work) / trials, 1000 * wall / trials


def bare(folder: Path, trials: int) -> float:
    """Return milliseconds per trial of a plain Optuna and MLflow loop over the same space."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    experiment = tiny_experiment(folder, trials)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    sampler = optuna.samplers.TPESampler(multivariate=True, seed=0)
    study = optuna.create_study(storage=storage, sampler=sampler, directions=["minimize", "maximize"])
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    where = client.create_experiment("bare", artifact_location=(folder / "artifacts").as_uri())
    parent = client.create_run(where).info.run_id
    space = distributions(experiment.space)
    start = time.perf_counter()
    for number in range(trials):
        trial = study.ask(space)
        values = _evaluate(experiment.model.weight, list(trial.params.values()))  # type: ignore[arg-type]
        study.tell(trial, values)
        run = client.create_run(where, tags={"mlflow.parentRunId": parent})
        now = int(time.time() * 1000)
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, now, number) for name, value in zip(("norm", "mean"), values, strict=True)],
            params=[Param(name, str(value)) for name, value in trial.params.items()],
        )
        client.set_terminated(run.info.run_id)
    return 1000 * (time.perf_counter() - start) / trials


def _evaluate(weight: Tensor, knobs: list[float]) -> list[float]:
    shrunk = weight.detach().clone()
    for value in knobs:
        shrunk *= 1 - value / 2
    return [float(shrunk.abs().sum()), float(shrunk.abs().mean())]


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 trials instead of 300")
    trials = 60 if parser.parse_args().quick else 300
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        baseline = bare(Path(other), trials)
        overhead, wall = ours(Path(one), trials)
    table = Table(title=f"Overhead per trial, {trials} trials")
    for column in ("side", "ms per trial", "what is counted"):
        table.add_column(column)
    table.add_row("bare Optuna + MLflow", f"{baseline:.1f}", "ask, tell, one MLflow run in one batch")
    table.add_row("kmr-sweeps", f"{overhead:.1f}", "all but rules, fine-tuning and meters")
    table.add_row("kmr-sweeps, wall", f"{wall:.1f}", "everything")
    Console().print(table)
    passed = overhead <= BAR_MS
    figures = {
        "benchmark": "overhead", "trials": trials, "ours_ms": round(overhead, 2), "ours_wall_ms": round(wall, 2),
        "bare_ms": round(baseline, 2), "bar_ms": BAR_MS, "passed": passed,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
