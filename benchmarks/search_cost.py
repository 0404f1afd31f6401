"""Training seconds to a good front: ours beside Optuna with a hand-written objective, on the same real models.

Both use the same experiment: space, model, data, fine-tuning after each move, and meters. The baseline is the usual
loop with Optuna's default sampler: ask, make the model, tell the readings. Ours is the driver of `sweeps.run`. Every
distinct step is executed and timed once. All sides and seeds that take the step are charged the same seconds, so that
they share one clock. A model from the cache is charged the loading time, which is measured first.

A front is judged by its hypervolume. The best known hypervolume is that of all models of all sides. A side that does
not reach a share of it is charged all its seconds, a lower bound that favours it (marked ≥). Each part of ours is
switched off in turn; halving, which is off by default, is switched on.

Bar: on each task ours reaches 95 % of the best known hypervolume in at most a fifth of the baseline's training seconds,
mean over seeds.

    python -m benchmarks.search_cost            # digits and CIFAR-10/ResNet-20 (KMR_DATA names the data folder)
    python -m benchmarks.search_cost --quick    # digits, two seeds
"""

import argparse
import copy
import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from analysis.pareto.hypervolume import hypervolume_share
from kmr.cache import PrefixCache, Store, describe
from kmr.core import Instantiation, Move, Step, TransformationSequence
from sweeps.experiment.build_experiment import build_experiment
from sweeps.experiment.config import Config
from sweeps.experiment.evaluation import evaluate
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.experiment_proposer import Asker
from sweeps.experiment.fidelity import fidelities_of
from sweeps.experiment.front import corners
from sweeps.experiment.knob_space import to_sequence
from sweeps.experiment.open_study import make_sampler
from sweeps.experiment.saved_front import SavedFront
from sweeps.experiment.sweep import Sweep
from sweeps.search.execution.interrupts import Interrupts
from sweeps.search.execution.work import Job, Tell
from sweeps.search.space import distributions
from sweeps.search.study.point import Ended, MeasuredModel, Point
from sweeps.search.study.trial_state import TrialState

BAR = 5.0
SHARES = (0.95, 0.99)


class Recorded:
    """A `Prefixes` for all runs that executes every step once and stores it."""

    def __init__(self) -> None:
        self.steps: dict[tuple[Move, ...], tuple[nn.Module, Step]] = {}

    def reach(
        self, base: nn.Module, instantiation: Instantiation, steps: Sequence[Step], move: Move, take: Any
    ) -> tuple[nn.Module, Step]:
        """Return the model and step of a move after these steps."""
        key = (*(step.move for step in steps if step.move is not None), move)
        if key not in self.steps:
            self.steps[key] = take()
        return self.steps[key]

    def seconds(self, moves: tuple[Move, ...]) -> float:
        """Return the measured seconds of the last of these moves."""
        spent = self.steps[moves][1].seconds
        return spent.rule + spent.finetune + spent.meter


@dataclass
class Task:
    """An experiment with recorded steps, and the values (cost, quality) of all its models."""

    name: str
    experiment: Experiment
    recorded: Recorded
    recall: float
    made: list[list[float]] = field(default_factory=list)

    def hypervolume(self, values: Sequence[Sequence[float]]) -> float:
        """Return the hypervolume of the feasible points, the base model included, as a share of the box."""
        names = [meter.name for meter in self.experiment.objectives]
        limits = self.experiment.config.limits
        inside = [v for v in values if all(v[names.index(name)] <= limit for name, limit in limits.items())]
        reference, ideal = ([place[name] for name in names] for place in corners(self.experiment))
        return hypervolume_share(np.array(inside or [reference]), reference, ideal, self.experiment.directions)


@dataclass
class Course:
    """The course of one run of one side: (training seconds so far, values) for each model, in order."""

    spent: float = 0.0
    points: list[tuple[float, list[float]]] = field(default_factory=list)
    trained: int = 0
    thought: float = 0.0

    def until(self, task: Task, target: float) -> tuple[float, bool]:
        """Return the seconds until the hypervolume reached a target, and whether it did."""
        had: list[list[float]] = []
        for spent, values in self.points:
            had.append(values)
            if task.hypervolume(had) >= target:
                return spent, True
        return self.spent, False


class Charging:
    """An executor of recorded steps that charges a course for the steps that are new to its run."""

    def __init__(self, task: Task, course: Course, cache: bool) -> None:
        self._task, self._course, self._cache = task, course, cache
        self._had: set[tuple[Move, ...]] = set()
        self._job: Job | None = None
        self._fidelities = fidelities_of(task.experiment)
        self.worked = 0.0

    @property
    def free(self) -> int:
        """The number of free places: one job at a time."""
        return int(self._job is None)

    def submit(self, job: Job) -> None:
        """Accept a job."""
        self._job = job

    def work(self, tell: Tell) -> None:
        """Do the job."""
        job, self._job = self._job, None
        assert job is not None
        began = time.perf_counter()
        try:
            self._do(job, tell)
        finally:
            self.worked += time.perf_counter() - began

    def _do(self, job: Job, tell: Tell) -> None:
        task, course = self._task, self._course
        if self._fidelities is not None and job.rung < len(self._fidelities.experiments):
            started = time.perf_counter()
            low = self._fidelities.look(job.rung, job.params)
            course.spent += time.perf_counter() - started
            tell(Ended(job.number, TrialState.RUNNING, low=low))
            return
        names = [meter.name for meter in task.experiment.objectives]

        def on_point(point: Point, model: nn.Module) -> None:
            moves = point.moves.moves
            fresh = not self._cache or moves not in self._had
            course.spent += task.recorded.seconds(moves) if fresh else task.recall
            self._had.add(moves)
            course.points.append((course.spent, point.values(names)))
            tell(MeasuredModel(job.number, point))

        course.trained += 1
        done = evaluate(task.experiment, job.params, on_point)
        tell(Ended(job.number, TrialState.COMPLETE, overhead=done.overhead, notes=tuple(done.notes)))

    def close(self) -> None:
        """Release nothing."""


def experiment_of(name: str, folder: Path, overrides: Sequence[str]) -> Experiment:
    """Build an experiment of `conf`."""
    with initialize_config_module("conf", version_base="1.3"):
        raw = compose("config", overrides=[f"+exp={name}", f"output_dir={folder}", *overrides])
    plain = cast("dict[str, Any]", OmegaConf.to_container(raw, resolve=True))
    return build_experiment(cast(Config, OmegaConf.to_object(raw)), plain)


def task_of(name: str, exp: str, folder: Path, overrides: Sequence[str], recorded: Recorded) -> Task:
    """Make a task; a limit in the overrides is a share of the base model's cost."""
    experiment = experiment_of(exp, folder, overrides)
    first = next(iter(experiment.space.items()))
    sequence = TransformationSequence((Move(first[0], 0.3),))
    recipe = {"finetune": describe(experiment.finetune, without=("progress",))}
    cache = PrefixCache(Store(folder / "recall", 10**9), experiment.model, recipe)
    params = {move.knob: move.value for move in sequence}
    evaluate(_recalling(experiment, cache), params, lambda point, model: None)
    started = time.perf_counter()
    evaluate(_recalling(experiment, cache), params, lambda point, model: None)
    recall = time.perf_counter() - started
    experiment = _recalling(experiment, recorded)
    share = experiment.config.limits.get("weight_bytes")
    if share is not None:
        limit = share * experiment.base.costs["weight_bytes"].value
        experiment = replace(experiment, config=replace(experiment.config, limits={"weight_bytes": limit}))
    return Task(name, experiment, recorded, recall)


def _recalling(experiment: Experiment, prefixes: object) -> Experiment:
    """Return the experiment with another cache of prefixes."""
    compression = copy.copy(experiment.compression)
    compression.__dict__["prefixes"] = prefixes
    return replace(experiment, compression=compression)


def bare(task: Task, seed: int, trials: int) -> Course:
    """Run Optuna's defaults on a hand-written objective."""
    course, experiment = Course(), task.experiment
    names = [meter.name for meter in experiment.objectives]
    study = optuna.create_study(directions=experiment.directions, sampler=optuna.samplers.TPESampler(seed=seed))
    given = distributions(experiment.space)
    for _ in range(trials):
        started = time.perf_counter()
        trial = study.ask(given)
        course.thought += time.perf_counter() - started
        moves = to_sequence(experiment.instantiation, trial.params).moves
        final = evaluate(experiment, trial.params, lambda point, model: None).points[-1].values(names)
        course.spent += sum(task.recorded.seconds(moves[: end + 1]) for end in range(len(moves)))
        course.points.append((course.spent, final))
        course.trained += 1
        study.tell(trial, final)
    return course


def ours(task: Task, seed: int, trials: int, folder: Path, off: str = "") -> Course:
    """Run the driver with one part off, or with halving on."""
    course = Course()
    plain = {**task.experiment.plain, "screening": off != "screening", "seed": seed}
    plain["halving"] = {"fidelities": [0.25, 1.0]} if off == "halving" else None
    config = replace(task.experiment.config, seed=seed, anchors=0 if off == "anchors" else 3)
    # Readings for other seeds are not reused.
    experiment = _recalling(replace(task.experiment, plain=plain, config=config), task.experiment.prefixes)
    study = optuna.create_study(directions=experiment.directions)
    study.sampler = make_sampler(experiment, 0)
    home = Path(tempfile.mkdtemp(dir=folder))
    asker = Asker(experiment, study, statics=off != "prefilter", canonical=off != "dedup")
    sweep = Sweep(experiment, study, SavedFront(experiment, home), asker)
    executor = Charging(replace(task, experiment=experiment), course, off != "cache")
    started = time.perf_counter()
    sweep.run(trials, executor, Interrupts())
    course.thought = time.perf_counter() - started - executor.worked
    return course


SIDES = ("Optuna default", "ours", "− screening", "− prefilter", "− dedup", "− cache", "− anchors", "+ halving")
_OFF: Mapping[str, str] = {
    "ours": "", "− screening": "screening", "− prefilter": "prefilter", "− dedup": "dedup", "− cache": "cache",
    "− anchors": "anchors", "+ halving": "halving",
}  # fmt: skip


def main() -> int:
    """Print a table for each task and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="digits only, two seeds, fewer trials")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--tasks", default=None, help="comma-separated")
    parser.add_argument("--sides", default=",".join(SIDES))
    arguments = parser.parse_args()
    quick = arguments.quick
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("sweeps").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    seeds = arguments.seeds or (2 if quick else 10)
    sides = arguments.sides.split(",")
    console = Console(width=150)
    figures: dict[str, Any] = {"benchmark": "search_cost", "quick": quick, "threads": 1, "tasks": {}}
    with tempfile.TemporaryDirectory() as home:
        done = _runs(Path(home), quick, arguments.tasks, seeds, sides)
    figures["seeds"] = [len(courses[sides[0]]) for _, courses in done]
    ratios = [_report(console, task, courses, figures["tasks"]) for task, courses in done]
    figures["ratio_95"] = [round(ratio, 2) for ratio in ratios]
    figures["bar"] = BAR
    figures["passed"] = bool(ratios) and min(ratios) >= BAR
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


def _runs(
    home: Path, quick: bool, names: str | None, seeds: int, sides: Sequence[str]
) -> list[tuple[Task, dict[str, list[Course]]]]:
    """Run all sides seed by seed; after Ctrl-C, keep the seeds that all sides have finished."""
    recorded: dict[str, Recorded] = {}  # tasks of one experiment differ only in their limit
    runs = []
    for name, exp, overrides, trials, more in _tasks(quick):
        if not names or name in names.split(","):
            task = task_of(name, exp, home, overrides, recorded.setdefault(exp, Recorded()))
            runs.append((task, trials, more, {side: list[Course]() for side in sides}))
    try:
        for seed in range(seeds):
            for task, trials, more, courses in runs:
                found = {}
                for side in sides:
                    if side == SIDES[0]:
                        found[side] = bare(task, seed, more)
                    else:
                        found[side] = ours(task, seed, trials, home, _OFF[side])
                    did = f"{found[side].trained} trainings, {found[side].spent:.0f} s"
                    print(f"{task.name} seed {seed} {side}: {did}", file=sys.stderr)
                for side, course in found.items():
                    courses[side].append(course)
    except KeyboardInterrupt:
        print("stopped; the results are of the seeds that all sides have finished", file=sys.stderr)
    return [(task, courses) for task, _, _, courses in runs if courses[sides[0]]]


def _tasks(quick: bool) -> list[tuple[str, str, list[str], int, int]]:
    digits = ["threads=1", *(["train.epochs=4", "finetune.epochs=0.5"] if quick else [])]
    trials, more = (24, 60) if quick else (64, 200)
    tasks = [
        ("digits", "quickstart", digits, trials, more),
        ("digits at a tenth", "quickstart", [*digits, "+limits.weight_bytes=0.1"], trials, more),
    ]
    if not quick:
        small = ["threads=1", "data.train=4000", "data.validation=1000", "data.test=1000", "finetune.epochs=0.3"]
        small += ["space.structured.ratio.step=0.1", "space.lowrank.keep.step=0.1"]
        tasks.append(("cifar10", "cifar10_resnet20", small, 32, 96))
    return tasks


def _report(console: Console, task: Task, courses: Mapping[str, list[Course]], figures: dict[str, Any]) -> float:
    everything = [values for runs in courses.values() for course in runs for _, values in course.points]
    best = task.hypervolume(everything)
    table = Table(title=f"{task.name}: training seconds to a share of the best known hypervolume ({best:.4f})")
    for column in ("side", "to 95 %", "to 99 %", "reached 95 / 99 %", "trainings", "total s", "harness s"):
        table.add_column(column, justify="left" if column == "side" else "right")
    means: dict[str, float] = {}
    figures[task.name] = {"best": round(best, 5), "recall_ms": round(1000 * task.recall, 1), "sides": {}}
    for side, runs in courses.items():
        cells, reached = [], []
        for share in SHARES:
            found = [course.until(task, share * best) for course in runs]
            seconds = np.array([spent for spent, _ in found])
            hits = sum(hit for _, hit in found)
            reached.append(hits)
            half = 1.96 * seconds.std(ddof=1) / len(seconds) ** 0.5 if len(seconds) > 1 else float("nan")
            cells.append(f"{'≥ ' if hits < len(runs) else ''}{seconds.mean():.1f} ± {half:.1f}")
            means.setdefault(side, float(seconds.mean()))
            entry = figures[task.name]["sides"].setdefault(side, {})
            entry[f"to_{share:.2f}"] = [round(float(seconds.mean()), 2), round(float(half), 2), hits]
        table.add_row(
            side, *cells, f"{reached[0]}/{len(runs)} · {reached[1]}/{len(runs)}",
            f"{np.mean([c.trained for c in runs]):.0f}", f"{np.mean([c.spent for c in runs]):.0f}",
            f"{np.mean([c.thought for c in runs]):.1f}",
        )  # fmt: skip
    console.print(table)
    return means.get(SIDES[0], 0.0) / means["ours"] if "ours" in means else float("nan")


if __name__ == "__main__":
    sys.exit(main())
