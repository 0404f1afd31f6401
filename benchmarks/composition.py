"""Composition of techniques beside each technique alone: four studies of equal length and seed in one run.

The baselines are channel pruning, low rank and weight bits alone, on the same model, data, fine-tuning and number of
trials. A point of the composed front is new if no point of a single front is at least as good in both objectives.
All values are validation values.

The composed space contains the single ones and is larger, so with few trials its hypervolume can be smaller.

Bar: the composed front has a new point.

    python -m benchmarks.composition            # CIFAR-10, ResNet-20; KMR_DATA names the data folder
    python -m benchmarks.composition --quick    # digits
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.exporting.export import export_images
from analysis.front import front_frame
from analysis.pareto.hypervolume import hypervolume_share
from analysis.plots import fronts
from analysis.table import StudyTable, load

KNOBS = {"channel pruning": "structured.ratio", "low rank": "lowrank.keep", "weight bits": "quantize.bits"}


def run(experiment: str, label: str, kept: list[str], folder: Path, trials: int, more: list[str]) -> StudyTable:
    """Run or resume a study that searches only the given knobs."""
    left_out = [f"space.{knob}=null" for knob in KNOBS.values() if knob not in kept]
    name = f"{experiment}-{label.replace(' ', '-')}"
    command = [
        sys.executable, "-m", "sweeps.run", f"+exp={experiment}", f"name={name}", f"trials={trials}",
        f"output_dir={folder}", "tracking.enabled=false", "report.images=false", *left_out, *more,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr)
    return load(folder / name)


def front_values(table: StudyTable) -> np.ndarray:
    """Return the front's objectives, (n, 2)."""
    return StudyTable(front_frame(table), table.meta, table.folder).values(table.objectives)


def new_points(composed: np.ndarray, singles: list[np.ndarray]) -> int:
    """Count the composed points (cost, quality) that no single point weakly dominates."""
    others = np.concatenate(singles)
    reached = (others[None, :, 0] <= composed[:, None, 0]) & (others[None, :, 1] >= composed[:, None, 1])
    return int((~reached.any(axis=1)).sum())


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="digits, 16 trials per study")
    parser.add_argument("--trials", type=int, help="trials per study")
    parser.add_argument("--folder", type=Path, default=Path("runs/composition"))
    parser.add_argument("overrides", nargs="*", help="further overrides for every study")
    options = parser.parse_args()
    experiment = "quickstart" if options.quick else "cifar10_resnet20"
    trials = options.trials or (16 if options.quick else 24)
    tables = {
        label: run(experiment, label, [knob], options.folder, trials, options.overrides)
        for label, knob in KNOBS.items()
    }
    tables["composed"] = run(experiment, "composed", list(KNOBS.values()), options.folder, trials, options.overrides)
    values = {label: front_values(table) for label, table in tables.items()}
    one = tables["composed"]
    volumes = {
        label: hypervolume_share(v, one.corner("reference"), one.corner("ideal"), one.directions)
        for label, v in values.items()
    }
    new = new_points(values["composed"], [values[label] for label in KNOBS])
    figure = fronts(tables)
    page = options.folder / f"{experiment}-composition.html"
    figure.write_html(page, include_plotlyjs=True)
    drawn = export_images({page.stem: figure}, options.folder)
    shown = Table(title=f"{experiment}: {trials} trials per study")
    for column in ("searched", "front", "hypervolume", "trial seconds"):
        shown.add_column(column)
    for label, table in tables.items():
        shown.add_row(label, str(len(values[label])), f"{volumes[label]:.4f}", f"{table.meta['seconds']:.0f}")
    Console(width=100).print(shown)
    print(f"no single technique reaches {new} of the {len(values['composed'])} points on the composed front")
    print("\n".join([str(page), *map(str, drawn.files), *drawn.messages]))
    passed = new > 0
    figures = {
        "benchmark": "composition", "experiment": experiment, "trials": trials, "new_points": new,
        "hypervolume": {label: round(volume, 5) for label, volume in volumes.items()}, "passed": passed,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
