"""Hypervolume and non-dominated sorting beside pymoo, moocore and Optuna, on the same points in one run.

Points are random: on a front (the surface of a ball) for the hypervolume, anywhere in a cube for sorting. Values and
ranks must be equal. Times are the best of three, on one thread.

Ours calls moocore after checks, directions and a filter of rows that are not finite; the difference between the two
rows is their cost.

Bar: every hypervolume equals Optuna's to a relative 1e-9, every ranking of up to 5,000 points equals Optuna's, and
100,000 points of two objectives are sorted in less than one second of processor time (independent of other load).

    python -m benchmarks.hypervolume            # pymoo is in the extra `bench`; without it, its rows are missing
    python -m benchmarks.hypervolume --quick
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import moocore
import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.pareto.dominance import non_dominated, ranks
from analysis.pareto.hypervolume import hypervolume

BAR_SECONDS = 1.0
SORTED = 100_000


def on_a_front(points: int, objectives: int) -> np.ndarray:
    """Return mutually non-dominated points in [0, 1], to be minimised."""
    random = np.random.default_rng(points + objectives)
    directions = np.abs(random.normal(size=(points, objectives)))
    return np.asarray(1 - directions / np.linalg.norm(directions, axis=1, keepdims=True))


def anywhere(points: int, objectives: int) -> np.ndarray:
    """Return random points in the unit cube."""
    return np.random.default_rng(points * objectives).random((points, objectives))


def time_call(call: Callable[[], Any], repeats: int = 3) -> tuple[Any, float]:
    """Return the value of a call and its least processor seconds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        value = call()
        best = min(best, time.process_time() - start)
    return value, best


def volumes(points: np.ndarray) -> dict[str, Callable[[], float]]:
    """Return a function by library that measures the hypervolume of points up to 1.1."""
    objectives = points.shape[1]
    reference = np.full(objectives, 1.1)
    down = ["minimize"] * objectives
    found: dict[str, Callable[[], float]] = {
        "ours": lambda: hypervolume(points, reference, down),
        "moocore": lambda: float(moocore.hypervolume(points, ref=reference)),
    }
    from optuna._hypervolume import compute_hypervolume

    found["optuna"] = lambda: float(compute_hypervolume(points, reference))
    try:
        from pymoo.indicators.hv import HV
    except ImportError:
        return found
    return found | {"pymoo": lambda: float(HV(ref_point=reference)(points))}


def sorters(points: np.ndarray, quick: bool) -> dict[str, Callable[[], np.ndarray]]:
    """Return a function by library that ranks points, without the slow libraries for many points."""
    down = ["minimize"] * points.shape[1]
    found: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: ranks(points, down),
        "moocore": lambda: np.asarray(moocore.pareto_rank(points)),
    }
    if len(points) > 5000:
        return found
    from optuna.study._multi_objective import _fast_non_domination_rank

    found["optuna"] = lambda: np.asarray(_fast_non_domination_rank(points))
    try:
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
    except ImportError:
        return found

    def pymoo() -> np.ndarray:
        ranked = np.empty(len(points), dtype=int)
        for rank, front in enumerate(NonDominatedSorting().do(points)):
            ranked[front] = rank
        return ranked

    return found | {"pymoo": pymoo}


def main() -> int:
    """Print the tables and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sets, except the sort of 100,000 points")
    options = parser.parse_args()
    sets = [(1000, 2), (500, 3), (60, 4)] if options.quick else [(10_000, 2), (1000, 3), (5000, 3), (200, 4), (80, 5)]
    shown = Table(title="hypervolume of n points on a front")
    for column in ("n", "objectives", "library", "value", "processor ms", "× ours"):
        shown.add_column(column, justify="right")
    measured, equal = [], True
    for size, objectives in sets:
        points = on_a_front(size, objectives)
        times = {name: time_call(call) for name, call in volumes(points).items()}
        truth = times["optuna"][0]
        for name, (value, seconds) in times.items():
            same = bool(np.isclose(value, truth, rtol=1e-9, atol=0))
            equal &= same or name != "ours"
            ratio = seconds / max(times["ours"][1], 1e-9)
            shown.add_row(f"{size:,}", str(objectives), name, f"{value:.9f}", f"{1e3 * seconds:.2f}", f"{ratio:.2f}")
            measured.append({"n": size, "objectives": objectives, "library": name, "value": value, "equal": same,
                             "seconds": round(seconds, 6)})  # fmt: skip
    sorting = Table(title="ranks of n points in a cube")
    for column in ("n", "objectives", "library", "fronts", "processor ms", "× ours"):
        sorting.add_column(column, justify="right")
    ranked, least = [], float("inf")
    for size, objectives in [(2000, 2), (2000, 3), (SORTED, 2)]:
        points = anywhere(size, objectives)
        results = {
            name: time_call(call, 1 if size == SORTED else 3) for name, call in sorters(points, options.quick).items()
        }
        truth = results.get("optuna", results["moocore"])[0]
        assert (results["ours"][0] == 0).sum() == non_dominated(points, ["minimize"] * objectives).sum()
        for name, (value, seconds) in results.items():
            same = bool((value == truth).all())
            equal &= same or name != "ours"
            if name == "ours" and size == SORTED:
                least = seconds
            ratio = seconds / max(results["ours"][1], 1e-9)
            sorting.add_row(
                f"{size:,}", str(objectives), name, str(int(value.max()) + 1), f"{1e3 * seconds:.1f}", f"{ratio:.2f}"
            )
            ranked.append(
                {"n": size, "objectives": objectives, "library": name, "equal": same, "seconds": round(seconds, 6)}
            )
    console = Console(width=100)
    console.print(shown)
    console.print(sorting)
    passed = equal and least < BAR_SECONDS
    figures = {"benchmark": "hypervolume", "bar_seconds": BAR_SECONDS, "sorted_100000_seconds": round(least, 4),
               "hypervolume": measured, "ranks": ranked, "passed": passed}  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
