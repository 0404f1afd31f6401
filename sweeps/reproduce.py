"""Make the model of a point again, from the base model and without the cache, and compare its readings.

Readings must be the same to the last digit, timings aside; another machine or torch version gives other last digits.
With --out the model is also saved, so that any point can be deployed, not only those on the front.

Examples:
    python -m sweeps.reproduce runs/quickstart 12.3
    python -m sweeps.reproduce runs/quickstart 12.3 --out my_model
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from kmr.artifact import folder as artifact
from kmr.core import KMRError, measure, run_sequence
from sweeps.errors import SweepError
from sweeps.experiment.build_experiment import build_experiment
from sweeps.experiment.remade import Agreement, compare
from sweeps.search.study.point import Point
from sweeps.terminal.arguments import command_line
from sweeps.terminal.console import wide_console
from sweeps.views.card import StudyCard
from sweeps.views.run_folder import open_run


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Make the model and compare; return 0, 1 when a reading differs, 2 with one line on stderr for bad input."""
    parser = command_line("sweeps.reproduce", __doc__)
    parser.add_argument("folder", help="run folder, such as runs/<study>")
    parser.add_argument("point", help="a point of the study, such as 12.3")
    parser.add_argument("--out", metavar="DIR", help="also save the model in this folder, as an artifact")
    asked = parser.parse_args(arguments)
    console = console or wide_console()
    try:
        opened = open_run(asked.folder)
        points = opened.state.points
        if asked.point not in points:
            members = ", ".join(opened.front.members)
            raise SweepError(f"there is no point {asked.point} in {asked.folder}: the front has {members}")
        same = reproduce(opened.card, points[asked.point], console, Path(asked.out) if asked.out else None)
    except (SweepError, KMRError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0 if same else 1


def reproduce(card: StudyCard, point: Point, console: Console, out: Path | None = None) -> bool:
    """Repeat a point's moves on the base model, without the cache, and print its readings beside the study's.

    Returns whether all readings but timings are equal.

    Raises:
        SweepError: the config's model, data or weights cannot be built, or differ from the study's.
    """
    config = replace(card.config, cache=replace(card.config.cache, enabled=False))
    torch.set_num_threads(config.threads or torch.get_num_threads())
    experiment = build_experiment(config, card.plain).with_base(card.base)
    digests = {data.context: data.digest for data in card.datasets}
    now = {data.context: data.digest for data in StudyCard.of(experiment).datasets}
    if other := [context for context, digest in digests.items() if now.get(context) != digest]:
        raise SweepError(
            f"the {', '.join(other)} data differ from the study's: restore the data the study was made with"
        )
    run = run_sequence(
        experiment.model, experiment.instantiation, point.moves, finetune=experiment.finetune, base=experiment.base
    )
    # The base model's readings are the study's own, and a model without moves would only repeat them.
    meters = (*experiment.instantiation.costs, *experiment.instantiation.qualities)
    readings = measure(run.model, meters)
    known, same = point.to_readings(), True
    table = Table(title=str(point.moves), title_justify="left")
    for head in ("meter", "study", "now", ""):
        table.add_column(head, justify="left" if head in ("meter", "") else "right")
    for meter in meters:
        then, here = known[meter.name].value, readings[meter.name].value
        how = compare(meter, known[meter.name], readings[meter.name])
        same &= how in (Agreement.SAME, Agreement.TIMING)
        table.add_row(meter.name, f"{then:.8g}", f"{here:.8g}", how)
    console.print(table)
    if out is not None:
        artifact.save(
            out, run.model, base=experiment.model, builder=experiment.builder, sequence=point.moves, readings=readings
        )
        console.print(f"written to {out}", markup=False, highlight=False, soft_wrap=True)
    if not same:
        console.print(
            "some readings differ: another machine, thread count or torch version changes the last digits",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    return bool(same)


if __name__ == "__main__":
    sys.exit(main())
