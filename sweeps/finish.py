"""The end of a run: front members saved, read again for their noise and tested once each; then all views."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.table import StudyTable
from analysis.uncertainty import COLUMN
from analysis.wording import plural
from kmr.artifact import folder as artifact
from kmr.core import Reading, Readings
from sweeps.experiment.assessment.degradation import keep_profiles
from sweeps.experiment.assessment.layers import keep_layers
from sweeps.experiment.assessment.noise import measure_noise
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.front import artifact_path
from sweeps.experiment.sweep import Sweep
from sweeps.views.card import StudyCard, without_passwords
from sweeps.views.mlflow.tracker import Tracker
from sweeps.views.publish import Published, State, keep_created, keep_test, keep_unsaved, kept_test, publish, read_state


@dataclass(frozen=True)
class Written:
    """What a finished run leaves for the user."""

    published: Published
    state: State
    messages: tuple[str, ...]


def write_results(
    card: StudyCard,
    experiment: Experiment,
    study: optuna.Study,
    sweep: Sweep,
    tracker: Tracker | None,
    folder: Path,
    *,
    images: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> Written:
    """Bring everything that is derived from the study up to date: also after Ctrl-C, and safe to repeat.

    Args:
        card: of the study, as it is to be shown.
        experiment: what was searched.
        study: where it is kept.
        sweep: the run that ends.
        tracker: started; None writes nothing to MLflow.
        folder: of the study.
        images: also draw the report's pictures.
        stopping: asked before each model of the noise stage, which is left out of a run that was stopped.
    """
    sweep.save_missing_artifacts()
    problems = [f"{name} is not on the front, it cannot be saved: {why}" for name, why in sweep.unsaved.items()]
    keep_unsaved(study, sweep.unsaved)
    keep_created(study)
    points = read_state(card, study, sweep.records).points
    usable = {name: point for name, point in points.items() if name not in sweep.unsaved}
    if not stopping():
        front = sweep.front.members
        problems += measure_noise(experiment, study, usable, front, folder, may_go_on=lambda: not stopping())
    for name in sweep.front.members:
        try:
            test_point(experiment, study, folder, name)
        except Exception as error:  # one model that fails on test data must not cost the report of all others
            problems.append(f"{name} could not be read on test data: {type(error).__name__}: {error}")
    keep_layers(study, experiment.model, folder, sweep.front.members)
    keep_profiles(study, experiment, folder, sweep.front.members)
    card.keep(study)
    state = read_state(card, study, sweep.records)
    published = publish(state, folder, tracker, images=images, example=experiment.data.train.first_inputs(8))
    return Written(published, state, (*problems, *published.messages))


def test_point(experiment: Experiment, study: optuna.Study, folder: Path, name: str) -> Readings:
    """Read the held-out data on the saved artifact, the first time a point is on a final front."""
    known = kept_test(study, name)
    if known is not None:
        return known
    saved = artifact_path(folder, name)
    model = artifact.load(saved, base=experiment.model) if saved.is_dir() else experiment.model
    readings = experiment.test(model)
    keep_test(study, name, readings)
    return readings


def print_front(console: Console, published: Published, state: State) -> None:
    """Print the front, and whether nothing on it meets the study's budget."""
    card, points = state.card, state.points
    console.print(front_table(state, published.table, published.front))
    if card.config.budget and not any(card.within_budget(points[name]) for name in published.front):
        limits = ", ".join(f"{name} {limit:g}" for name, limit in card.config.budget.items())
        console.print(f"no model on the front meets the budget ({limits})", style="yellow", highlight=False)


def front_table(state: State, table: StudyTable, members: Sequence[str]) -> Table:
    """Show the front: what was done, what it costs, validation and held-out quality with standard errors.

    The last column is the probability that no other model is better in all objectives.
    """
    card, points = state.card, state.points
    qualities = [meter.name for meter in card.qualities]
    shown = Table(title=f"Front of {card.config.name}: {plural(len(members), 'point')}", title_justify="left")
    shown.add_column("point")
    shown.add_column("sequence", overflow="fold")
    for meter in card.objectives:
        shown.add_column(
            meter.name + (" (validation)" if meter.name in qualities else f" [{meter.unit}]"), justify="right"
        )
    tests = [meter.name for meter in card.objectives if meter.name in qualities] or qualities[:1]
    for name in tests:
        shown.add_column(f"{name} (held-out test)", justify="right", style="bold")
    shown.add_column("P(front)", justify="right")
    chances = dict(zip(table.frame["point"], table.column(COLUMN), strict=True))
    first = card.objectives[0]
    for name in sorted(members, key=lambda name: points[name].readings[first.name][0] or 0.0):
        point = points[name]
        cells: list[Any] = [name, Text(str(point.moves))]
        cells += [_number(*point.readings[meter.name]) for meter in card.objectives]
        cells += [_tested(state.tested.get(name, {}).get(quality)) for quality in tests]
        cells.append(f"{chances.get(name, float('nan')):.2f}")
        shown.add_row(*cells)
    return shown


def _tested(reading: Reading | None) -> str:
    return "not read" if reading is None else _number(reading.value, reading.stderr)


def _number(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "–"
    if stderr is not None:
        return f"{value:.4f} ± {stderr:.4f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def commands(argv: Sequence[str], trials: int) -> tuple[str, str]:
    """Return the command that was run, and the one that resumes or extends it to twice the trials."""
    kept = [argument for argument in argv if not argument.lstrip("+").startswith("trials=")]
    start = "python -m sweeps.run"
    run, extend = shlex.join([*start.split(), *argv]), shlex.join([*start.split(), *kept, f"trials={2 * trials}"])
    return str(without_passwords(run)), str(without_passwords(extend))
