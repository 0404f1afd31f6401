"""First and last lines of a sweep in the terminal."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from analysis.wording import plural
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.sweep import Sweep


def greet(console: Console, experiment: Experiment, sweep: Sweep, folder: Path) -> None:
    """Print the study, the base model, the proposer and the search space."""
    config = experiment.config
    known = f", {sweep.finished} finished before" if sweep.finished else ""
    greeting = f"{config.name}: {plural(config.trials, 'trial')}{known}, in {folder}"
    console.print(greeting, style="bold", markup=False, highlight=False, soft_wrap=True)
    plain_units = ("1", "fraction")
    base = ", ".join(
        f"{meter.name} {experiment.base.readings[meter.name].value:,.6g}"
        + ("" if meter.unit in plain_units else f" {meter.unit}")
        for meter in experiment.objectives
    )
    console.print(f"base model: {base}", highlight=False, soft_wrap=True)
    if experiment.config.policy is None:
        console.print(sweep.asker.description, markup=False, highlight=False, soft_wrap=True)
    knobs = "; ".join(f"{name} {domain}" for name, domain in experiment.space.items())
    console.print(f"searching {knobs}", markup=False, highlight=False, soft_wrap=True)


def farewell(
    console: Console, report: Path, place: Mapping[str, str] | None, more: str | None, stopped: bool, seconds: float
) -> None:
    """Print where the results are, and the command that resumes or extends the study.

    Args:
        console: where to print.
        report: path of the report.
        place: addresses of the study in the tracker.
        more: the command; None if there is nothing left to search.
        stopped: whether the user stopped the run.
        seconds: duration of the run.
    """

    def line(label: str, text: str) -> None:
        console.print(f"{label:<8}{text}", markup=False, highlight=False, soft_wrap=True)

    line("report", str(report))
    if place is not None:
        line("MLflow", place["ui"])
        line("", f"then open {place['link']}")
        line("", f"the study {place['study_link']}")
    if more is not None:
        line("resume" if stopped else "extend", more)
    console.print(f"done in {seconds:.0f} s", highlight=False)
