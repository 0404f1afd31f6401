"""Models, data and tasks as people bring them, each from a sweep to an exported file, beside a plain reading of it.

A row is a kind of model, a form of data and a task. It goes through a sweep of a few trials. Each model of the front is
loaded, and its qualities on test data are computed again in plain PyTorch, NumPy or scikit-learn from the row's own
test tensors. They must equal the reported ones, as must the base model's. The reported bytes must be those of the file;
the exported file must return what the loaded model returns. The named baseline is that plain reading, printed beside
ours. A row that must be refused works if the error is one of this project's own and names the value and the way out.

Verdicts: works, clear error (expected), clear error (unexpected), wrong number, raw error, skipped.

Bar: at least 60 user-shaped rows; wrong numbers 0, raw errors 0, at least 54 work (a clear error that the row expects
counts as works). Skipped rows do not count.

    python -m benchmarks.any_model              # about twenty minutes, two rows at a time
    python -m benchmarks.any_model --quick      # a row of each kind, within 90 s
    python -m benchmarks.any_model --row tensors
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.any_model_rows import ROWS
from benchmarks.any_model_rows.judge import RAW, REFUSED, SKIPPED, UNEXPECTED, WORKS, WRONG, Result, judge

ROWS_BAR, WORKS_BAR = 60, 54
QUICK = (
    "data_loaders", "random_augmentation", "sample_weights", "tags_partly_known", "own_task_by_inheritance", "forecast",
    "causal_lm_with_a_cache", "segmentation_with_a_border", "detection_by_loaders_structured", "weight_norm",
    "weight_read_by_the_head", "closure_over_the_original",
)  # fmt: skip
"""A row of each kind, for --quick."""
_SECONDS = 240


def judge_here(name: str) -> Result:
    """Run one row in this process."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        result = judge(ROWS[name], Path(folder))
    used = resource.getrusage(resource.RUSAGE_SELF)
    result.seconds = round(time.monotonic() - started, 1)
    result.cpu_seconds = round(used.ru_utime + used.ru_stime, 1)
    return result


def judge_in_a_process(name: str) -> Result:
    """Run one row in a process of its own, within a time limit."""
    command = [sys.executable, "-m", "benchmarks.any_model", "--row", name, "--as-json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Result(name, RAW, f"not finished within {_SECONDS} s", seconds=_SECONDS)
    try:
        return Result(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return Result(name, RAW, f"the process ended with {done.returncode}: {done.stderr[-1000:]}")


def table_of(results: Sequence[Result]) -> Table:
    """Return the results as a table."""
    table = Table(title="models, data and tasks as people bring them; values of the last model on test data")
    for column in ("row", "verdict", "models", "meter", "ours", "plain PyTorch", "s", "CPU s", "why"):
        table.add_column(column, overflow="fold")
    for one in results:
        values = [f"{value:.4f}" if one.meter else "" for value in (one.ours, one.plain)]
        table.add_row(
            one.name, one.verdict, str(one.models or ""), one.meter, *values, f"{one.seconds:.0f}",
            f"{one.cpu_seconds:.0f}", one.why[:240],
        )  # fmt: skip
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fixed part of the rows")
    parser.add_argument("--row", choices=list(ROWS), action="append", help="run these rows only")
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time (default %(default)s)")
    parser.add_argument("--as-json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.as_json:
        print(judge_here(options.row[0]).line())
        return 0
    started = time.monotonic()
    names = options.row or (QUICK if options.quick else ROWS)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(judge_in_a_process, names))
    Console(width=200).print(table_of(results))
    verdicts = (WORKS, REFUSED, UNEXPECTED, WRONG, RAW, SKIPPED)
    counts = {verdict: sum(one.verdict == verdict for one in results) for verdict in verdicts}
    ran, works = len(results) - counts[SKIPPED], counts[WORKS] + counts[REFUSED]
    passed = not counts[WRONG] and not counts[RAW]
    if options.quick or options.row:
        passed = passed and works == ran
    else:
        passed = passed and ran >= ROWS_BAR and works >= WORKS_BAR
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = {
        "benchmark": "any_model", "rows": ran, "works_in_all": works, **counts,
        "wrong_or_raw": [one.name for one in results if one.verdict in (WRONG, RAW)],
        "wall_seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "passed": passed,
    }  # fmt: skip
    print(json.dumps(summary))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
