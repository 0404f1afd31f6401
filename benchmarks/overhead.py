"""Overhead of the harness per trial and its growth, beside a bare Optuna + MLflow loop with the same logging.

Both sides run the same trials over the same three knobs, with the same sampler and storages, in new folders. The model
is a fixed tiny linear layer. After each of a trial's three moves, a fine-tuning waits for a tenth of a second without
the interpreter lock, as training does (in `+exp=quickstart` it takes twice as long). Both sides measure every
intermediate model by eleven meters, like the quickstart, report all three models to the study, and log the trial's
parameters and all readings with standard errors to MLflow in one batch. Ours also leases each trial, stores its points
in the study, applies the moves once more to find duplicates before training, and saves every front member as an
artifact.

Overhead is the wall time of the whole search, logging included, minus the work of the trials (for ours the recorded
seconds of rules, fine-tuning and meters). The sampler is TPE up to 1,000 trials and NSGA-II above. Above 1,000 trials
both sides run at the same time and need two cores.

Bar: at most 50 ms per trial at 100 trials; at 1,000 at most half of the bare loop's overhead; at 10,000 no more per
trial than at 1,000, so that the total grows at most linearly.

    python -m benchmarks.overhead                       # 100, 1,000 and 10,000 trials: two hours
    python -m benchmarks.overhead --trials 100 1000     # a quarter of an hour
    python -m benchmarks.overhead --quick               # 100 trials
"""

import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import optuna
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kmr.artifact.folder import Builder
from kmr.core import Cost, FloatRange, Instantiation, Knob, Quality, Reading, Rule, Value
from kmr.data import as_data
from kmr.finetune import FineTune
from sweeps.experiment.compression import Compression
from sweeps.experiment.config import Config
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.model_work import ModelWork
from sweeps.experiment.open_study import open_study, run_folder
from sweeps.experiment.saved_front import SavedFront
from sweeps.experiment.sweep import Sweep
from sweeps.search.execution.executors import InProcess
from sweeps.search.execution.interrupts import Interrupts
from sweeps.search.space import distributions
from sweeps.search.study.record import study_id
from sweeps.terminal.progress import SweepProgress, TrialProgress
from sweeps.views.mlflow.tracker import Tracker
from sweeps.views.mlflow.trial_tracking import TrialTracking

BAR_MS = 50.0
WORK = 0.1
"""Seconds of fine-tuning after each move."""


@dataclass(frozen=True, kw_only=True)
class Shrink(Rule):
    """A minimal rule, which scales the weights."""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The one knob, in [0, 1]."""
        return (Knob(f"{self.name}.by", FloatRange(0.0, 1.0, neutral=0.0)),)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        """Multiply every parameter by 1 − v/2."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 - float(value) / 2)
        return model


@dataclass(frozen=True, kw_only=True)
class Wait(FineTune):
    """A fine-tuning that waits and changes nothing."""

    def __call__(self, model: nn.Module) -> nn.Module:
        """Wait, and return the model."""
        time.sleep(WORK)
        return model


@dataclass(frozen=True, kw_only=True)
class Norm(Cost):
    """The sum of absolute weights, Σ|w|."""

    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        """Sum the absolute parameters."""
        return Reading(float(sum(p.abs().sum() for p in seen.parameters())))


@dataclass(frozen=True, kw_only=True)
class Rippled(Quality):
    """A quality that rises with the cost plus a ripple, so that only a few percent of the models are on the front."""

    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        """Compute the logarithm of the norm plus a ripple."""
        return Reading(_quality(float(sum(p.abs().sum() for p in seen.parameters()))))


@dataclass(frozen=True, kw_only=True)
class Another(Rippled):
    """One more meter, with a standard error."""

    def read(self, seen: nn.Module) -> Reading:
        """Read the same value, with a standard error."""
        return replace(super().read(seen), stderr=0.01)


OTHERS = tuple(f"meter{number}" for number in range(9))


def _quality(norm: float) -> float:
    return math.log1p(norm) + 0.2 * math.sin(1e4 * norm)


def tiny_experiment(folder: Path, trials: int) -> Experiment:
    """Make an experiment with almost no work per trial."""
    x, y = torch.zeros(8, 4), torch.zeros(8, dtype=torch.long)
    data = as_data({"train": (x, y), "validation": (x, y), "test": (x, y)}, 8)
    torch.manual_seed(0)
    rules = tuple(Shrink(name=name) for name in ("first", "second", "third"))
    instantiation = Instantiation(
        "overhead", rules, (Norm(name="norm"),), (Rippled(name="quality"), *(Another(name=name) for name in OTHERS))
    )
    compression = Compression(
        nn.Linear(4, 2), instantiation, Wait(data=data.train), objectives=("norm", "quality"), copied=False
    )
    plain: Mapping[str, Any] = {"sampler": _sampler(trials), "screening": False}
    return Experiment(
        config=Config(name="overhead", output_dir=str(folder), trials=trials, objectives=["norm", "quality"]),
        plain=plain,
        compression=compression,
        data=data,
        space=compression.space,
        test_qualities=instantiation.qualities,
        builder=Builder("torch.nn.Linear", {"in_features": 4, "out_features": 2}),
        identity={},
    )


def _sampler(trials: int) -> dict[str, Any]:
    if trials > 1000:
        return {"_target_": "optuna.samplers.NSGAIISampler"}
    return {"_target_": "optuna.samplers.TPESampler", "multivariate": True}


def ours(folder: Path, trials: int) -> float:
    """Return the harness's overhead per trial in milliseconds."""
    experiment = tiny_experiment(folder, trials)
    home = run_folder(str(folder), "overhead")
    study = open_study(experiment, home)
    tracker = Tracker(None, "overhead", study_id(study), home, print)
    tracker.start({"name": "overhead"}, {}, "name: overhead")
    tracker.flush()
    saved = SavedFront(experiment, home)
    sweep = Sweep(experiment, study, saved)
    quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    start = time.perf_counter()
    with SweepProgress(quiet, 0, trials) as progress:
        for some in (*range(1000, trials, 1000), trials):
            listeners = (TrialProgress(progress, sweep), TrialTracking(tracker, saved))
            sweep.run(some, InProcess(ModelWork(experiment, home)), Interrupts(), listeners)
            _print_growth("ours", some, time.perf_counter() - start - _work(sweep))
    tracker.flush()
    wall = time.perf_counter() - start
    tracker.close("FINISHED")
    return 1000 * (wall - _work(sweep)) / trials


def _work(sweep: Sweep) -> float:
    """Return the recorded seconds of the trials' rules, fine-tuning and meters."""
    points = [point.seconds for record in sweep.records for point in record.points]
    return sum(spent["rule"] + spent["finetune"] + spent["meter"] for spent in points)


def _print_growth(side: str, trials: int, seconds: float) -> None:
    if trials > 100:
        print(f"{side}: {1000 * seconds / trials:.1f} ms per trial over {trials:,} trials", file=sys.stderr, flush=True)


def bare(folder: Path, trials: int) -> float:
    """Return the overhead per trial, in milliseconds, of a bare Optuna and MLflow loop with the same logging."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    experiment = tiny_experiment(folder, trials)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(multivariate=True, seed=0)
    if trials > 1000:
        sampler = optuna.samplers.NSGAIISampler(seed=0)
    study = optuna.create_study(storage=storage, sampler=sampler, directions=["minimize", "maximize"])
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    where = client.create_experiment("bare", artifact_location=(folder / "artifacts").as_uri())
    parent = client.create_run(where).info.run_id
    space = distributions(experiment.space)
    start, worked = time.perf_counter(), 0.0
    for number in range(trials):
        if number and number % 1000 == 0:
            _print_growth("bare", number, time.perf_counter() - start - worked)
        trial = study.ask(space)
        began = time.perf_counter()
        models = _evaluate(experiment.model.weight, list(trial.params.values()))  # type: ignore[arg-type]
        worked += time.perf_counter() - began
        study.tell(trial, models[-1])
        for end, values in enumerate(models[:-1], start=1):
            knobs = dict(list(trial.params.items())[:end])
            params = {name: knobs.get(name, 0.0) for name in space}
            study.add_trial(optuna.trial.create_trial(values=values, params=params, distributions=space))
        run = client.create_run(where, tags={"mlflow.parentRunId": parent})
        now = int(time.time() * 1000)
        client.log_batch(
            run.info.run_id,
            metrics=[
                Metric(name, value, now, step)
                for step, (norm, quality) in enumerate(models, start=1)
                for name, value in {"norm": norm, "quality": quality, **_more(quality)}.items()
            ],
            params=[Param(name, str(value)) for name, value in trial.params.items()],
        )
        client.set_terminated(run.info.run_id)
    return 1000 * (time.perf_counter() - start - worked) / trials


def _more(quality: float) -> dict[str, float]:
    return dict.fromkeys(OTHERS, quality) | dict.fromkeys((f"stderr/{name}" for name in OTHERS), 0.01)


def _evaluate(weight: Tensor, knobs: list[float]) -> list[list[float]]:
    shrunk, models = weight.detach().clone(), []
    for value in knobs:
        time.sleep(WORK)
        shrunk *= 1 - value / 2
        norm = float(shrunk.abs().sum())
        models.append([norm, _quality(norm)])
    return models


def _both(trials: int) -> tuple[float, float]:
    """Run both sides in turn; above 1,000 trials at the same time, each in its own process."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        if trials <= 1000:
            return bare(Path(other), trials), ours(Path(one), trials)
        with ProcessPoolExecutor(2, get_context("spawn"), _quiet) as processes:
            baseline, overhead = processes.submit(bare, Path(other), trials), processes.submit(ours, Path(one), trials)
            return baseline.result(), overhead.result()


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    torch.set_num_threads(1)


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 trials only")
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1000, 10_000])
    arguments = parser.parse_args()
    _quiet()
    table = Table(title="Overhead per trial, ms")
    for column in ("trials", "bare Optuna + MLflow", "kmr-sweeps", "ratio"):
        table.add_column(column, justify="right")
    found: dict[int, tuple[float, float]] = {}
    for trials in [100] if arguments.quick else arguments.trials:
        baseline, overhead = _both(trials)
        found[trials] = (baseline, overhead)
        table.add_row(f"{trials:,}", f"{baseline:.1f}", f"{overhead:.1f}", f"{overhead / baseline:.2f}")
        print(f"{trials} trials: bare {baseline:.1f} ms, ours {overhead:.1f} ms", file=sys.stderr)
    Console().print(table)
    passed = 100 not in found or found[100][1] <= BAR_MS
    if 1000 in found:
        passed &= found[1000][1] <= 0.5 * found[1000][0]
        passed &= 10_000 not in found or found[10_000][1] <= found[1000][1]
    figures = {
        "benchmark": "overhead", "quick": arguments.quick, "work_ms": 3000 * WORK, "passed": passed,
        "bare_ms": {str(trials): round(pair[0], 2) for trials, pair in found.items()},
        "ours_ms": {str(trials): round(pair[1], 2) for trials, pair in found.items()},
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
