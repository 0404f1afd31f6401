"""Throughput of two worker processes beside one, with one torch thread each.

Both sides are `python -m sweeps.run` on one experiment with the same list of vectors, three moves each and no cache, so
that both do the same work. A first run trains the base model and finishes a few trials. The measured run resumes it;
its throughput is measured from its first to its last finished trial, without the start of Python and of the workers.

Bar: two workers finish at least 1.7 times as many trials per second as one. Run it on two idle cores.

    python -m benchmarks.workers            # 64 trials of +exp=quickstart on each side
    python -m benchmarks.workers --quick    # 24
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from sweeps.search.study.record import records
from sweeps.search.study.storage import open_storage

BAR = 1.7
WARM = 4
"""The number of trials in the first run."""


def vectors(count: int) -> list[dict[str, float]]:
    """Return different vectors of the quickstart's space, with every knob turned."""
    ratios, keeps, bits = np.arange(1, 13) / 20, np.arange(6, 18) / 20, (8, 6, 5, 4)
    every = [
        {"structured.ratio": float(ratio), "lowrank.keep": float(keep), "quantize.bits": width}
        for ratio in ratios for keep in keeps for width in bits
    ]  # fmt: skip
    return [every[i] for i in np.random.default_rng(0).permutation(len(every))[:count]]


def throughput(folder: Path, workers: int, trials: int) -> tuple[float, float]:
    """Return the finished trials per second, and the mean seconds of a trial."""
    listed = folder / "vectors.json"
    listed.write_text(json.dumps(vectors(WARM + trials)))
    folder = folder / f"{workers}"
    for total in (WARM, WARM + trials):
        command = [
            sys.executable, "-m", "sweeps.run", "+exp=quickstart", f"output_dir={folder}", f"name=workers{workers}",
            f"workers={workers}", "threads=1", f"trials={total}", "tracking.enabled=false",
            "cache.enabled=false", "noise.seconds=0", "anchors=0", f"first_trials={listed}",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    home = folder / f"workers{workers}"
    study = optuna.load_study(study_name=home.name, storage=open_storage(None, home))
    ended = [record for record in records(study) if record.duplicate_of is None][WARM:]
    times = sorted(datetime.fromisoformat(record.finished).timestamp() for record in ended)
    return (len(times) - 1) / (times[-1] - times[0]), sum(record.seconds for record in ended) / len(ended)


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 trials")
    trials = 24 if parser.parse_args().quick else 64
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table(title=f"{trials} trials of +exp=quickstart, one torch thread per worker, {os.cpu_count()} cores")
    for column in ("workers", "trials/s", "seconds per trial"):
        table.add_column(column, justify="right")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            found[workers], seconds = throughput(Path(folder), workers, trials)
            table.add_row(str(workers), f"{found[workers]:.3f}", f"{seconds:.2f}")
    Console().print(table)
    ratio = found[2] / found[1]
    figures = {
        "benchmark": "workers", "trials": trials, "cores": os.cpu_count(), "one": round(found[1], 4),
        "two": round(found[2], 4), "ratio": round(ratio, 3), "bar": BAR, "passed": ratio >= BAR,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
