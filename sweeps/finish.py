"""The end of a run: front members saved and tested once each; table, report and MLflow brought up to date."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table
from rich.text import Text

import analysis.report
import analysis.table
from kmr import artifact
from kmr.core import Reading, Readings
from sweeps import results
from sweeps.driver import Sweep
from sweeps.experiment import Experiment
from sweeps.front import artifact_path
from sweeps.layers import keep_layers, with_layers
from sweeps.study import now
from sweeps.tracking import Tracker

_TEST = "kmr:test:"
_CREATED = "kmr:created"


@dataclass(frozen=True)
class Written:
    """What a finished run leaves for the user."""

    report: Path
    messages: tuple[str, ...]
    tested: Mapping[str, Readings]


def write_results(
    experiment: Experiment,
    study: optuna.Study,
    sweep: Sweep,
    tracker: Tracker | None,
    folder: Path,
    *,
    command: str,
    resume: str,
    images: bool,
) -> Written:
    """Bring everything that is derived from the study up to date: also after Ctrl-C, and safe to repeat."""
    sweep.save_missing_artifacts()
    problems = [f"{name} is not on the front, it cannot be saved: {why}" for name, why in sweep.unsaved.items()]
    tested: dict[str, Readings] = {}
    for name in sweep.front.members:
        try:
            tested[name] = test_point(experiment, study, folder, name)
        except Exception as error:  # one model that fails on test data must not cost the report of all others
            tested[name] = {}
            problems.append(f"{name} could not be read on test data: {type(error).__name__}: {error}")
    keep_layers(study, experiment.model, folder, sweep.front.members)
    base_test = tested.get("base") or test_point(experiment, study, folder, "base")
    if tracker is not None:
        tracker.flush()
    place = tracker.place if tracker is not None else None
    frame = results.frame(experiment, sweep.records, tested, tracker.run_ids if tracker else {}, folder, sweep.unsaved)
    frame = with_layers(frame, study)
    meta = results.meta(
        experiment,
        sweep.records,
        base_test,
        created=_created(study),
        command=command,
        resume=resume,
        place={**asdict(place), "ui": place.ui, "link": place.link} if place else None,
    )
    analysis.table.save(folder, frame, meta)
    report = analysis.report.write(folder, images=images)
    if tracker is not None:
        _track(tracker, sweep, tested, folder, (report.html, *report.files))
    return Written(report.html, (*problems, *report.messages), tested)


def test_point(experiment: Experiment, study: optuna.Study, folder: Path, name: str) -> Readings:
    """Read the held-out data on the saved artifact, the first time a point is on a final front."""
    stored = study.user_attrs.get(_TEST + name)
    if stored is not None:
        return results.to_readings(stored)
    saved = artifact_path(folder, name)
    model = artifact.load(saved, base=experiment.model) if saved.is_dir() else experiment.model
    readings = experiment.test(model)
    study.set_user_attr(_TEST + name, {key: {"value": r.value, "stderr": r.stderr} for key, r in readings.items()})
    return readings


def _created(study: optuna.Study) -> str:
    if _CREATED not in study.user_attrs:
        study.set_user_attr(_CREATED, now())
    return str(study.user_attrs[_CREATED])


def _track(tracker: Tracker, sweep: Sweep, tested: Mapping[str, Readings], folder: Path, files: Sequence[Path]) -> None:
    front: dict[int, list[str]] = {}
    for name in tested:
        if name != "base":
            front.setdefault(int(name.split(".")[0]), []).append(name)
    metrics = {
        "hypervolume_final": sweep.front.hypervolume,
        "front_size": float(len(tested)),
        "trials_finished": float(sweep.finished),
    }
    tracker.log_final(metrics, {"front": ", ".join(tested)}, {k: ", ".join(v) for k, v in front.items()})
    for path in dict.fromkeys(files):
        tracker.log_files({"report": path})
    tracker.log_files({"report": folder / analysis.table.RESULTS})
    tracker.log_files({"": folder / analysis.table.META})
    tracker.clear("front")
    for name in tested:
        tracker.log_files({f"front/{name}": artifact_path(folder, name)})


def print_front(console: Console, experiment: Experiment, sweep: Sweep, tested: Mapping[str, Readings]) -> None:
    """Print the front: what was done, what it costs, validation and held-out quality with standard errors."""
    objectives = experiment.objectives
    qualities = [meter.name for meter in experiment.test_qualities]
    table = Table(title=f"Front of {experiment.config.name}: {len(tested)} points", title_justify="left")
    table.add_column("point")
    table.add_column("sequence", overflow="fold")
    for meter in objectives:
        table.add_column(
            meter.name + (" (validation)" if meter.name in qualities else f" [{meter.unit}]"), justify="right"
        )
    shown = [meter.name for meter in objectives if meter.name in qualities] or qualities[:1]
    for name in shown:
        table.add_column(f"{name} (held-out test)", justify="right", style="bold")
    first = objectives[0]
    rows = sorted(tested, key=lambda name: sweep.point(name).readings[first.name][0] or 0.0)
    for name in rows:
        point = sweep.point(name)
        cells: list[Any] = [name, Text(str(point.moves))]
        cells += [_number(*point.readings[meter.name]) for meter in objectives]
        cells += [_tested(tested[name].get(quality)) for quality in shown]
        table.add_row(*cells)
    console.print(table)
    budget = experiment.config.budget
    if budget and not any(_within(experiment, sweep.point(name).to_readings()) for name in rows):
        limits = ", ".join(f"{name} {limit:g}" for name, limit in budget.items())
        console.print(f"no model on the front meets the budget ({limits})", style="yellow", highlight=False)


def _within(experiment: Experiment, readings: Readings) -> bool:
    directions = {m.name: m.direction for m in (*experiment.instantiation.costs, *experiment.instantiation.qualities)}
    return all(
        readings[name].value <= limit if directions[name] == "minimize" else readings[name].value >= limit
        for name, limit in experiment.config.budget.items()
    )


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
    return shlex.join([*start.split(), *argv]), shlex.join([*start.split(), *kept, f"trials={2 * trials}"])
