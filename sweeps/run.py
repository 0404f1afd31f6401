"""Search for the best compressions of a model, or list the experiments when none is named.

Each trial turns the rules' knobs, fine-tunes and measures the model; the study can be stopped and resumed at any time.
runs/<name> keeps it all: report.html, results.parquet, the models of the front, and config.yaml.

Examples:
    python -m sweeps.run
    python -m sweeps.run +exp=quickstart
    python -m sweeps.run +exp=quickstart trials=20 space.quantize.bits=4 name=four_bits
"""

import logging
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from analysis.wording import plural
from sweeps.errors import SweepError
from sweeps.experiment.config import Config, threads_of
from sweeps.terminal.hydra_entry import enter, guarded


def main() -> None:
    """Run the experiment named on the command line, or list those there are; exit with 0, 1, 2, 130 or 143."""
    enter(_sweep, __doc__)


def run(raw: DictConfig, argv: list[str], console: Console | None = None) -> int:
    """Run a composed config; return the exit code.

    Args:
        raw: the config, checked against `sweeps.experiment.config.Config`.
        argv: the overrides it was composed from, for the commands that are printed.
        console: where to print.
    """
    return guarded(_sweep, raw, argv, console)


def _sweep(config: Config, plain: dict[str, Any], argv: list[str], console: Console) -> int:
    import optuna
    import torch

    from sweeps.experiment.assessment.held_out import test_point
    from sweeps.experiment.experiment import build_experiment
    from sweeps.experiment.fidelity import fidelities_of
    from sweeps.experiment.model_work import ModelWork
    from sweeps.experiment.open_study import open_study, run_folder, with_base
    from sweeps.experiment.sweep import Sweep
    from sweeps.experiment.take_over import take_over
    from sweeps.search.execution.executors import Executor, InProcess, LocalProcesses
    from sweeps.search.execution.interrupts import Interrupts, Stopped
    from sweeps.search.study.failures import digest
    from sweeps.search.study.lease import reclaim
    from sweeps.search.study.record import recalled, turned_down
    from sweeps.terminal.commands import commands
    from sweeps.terminal.front_table import print_front
    from sweeps.terminal.progress import SweepProgress, watch
    from sweeps.views.card import StudyCard
    from sweeps.views.finish import write_results

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("sweeps.search.proposals.choose_sampler").setLevel(
        logging.WARNING
    )  # the greeting says what was chosen
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    torch.set_num_threads(threads_of(config))
    started = time.monotonic()
    folder = run_folder(config.output_dir, config.name)
    lock = FileLock(folder / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise SweepError(f"another sweep is running in {folder}: wait for it, or choose another name=…") from error
    with held, Interrupts() as interrupts:
        code, problem, why = 0, None, None
        try:
            with interrupts.allowed():
                experiment = build_experiment(config, plain)
                study = open_study(experiment, folder)
                fidelities = fidelities_of(experiment, folder)
                taken = take_over(study, experiment, folder)
                experiment = with_base(study, experiment)
                test_point(experiment, study, folder, "base")
        except Stopped as stop:
            console.print("stopped before the first trial")
            return stop.exit_code
        except SweepError:
            _forget_if_empty(folder)
            raise
        if taken is not None:
            console.print(f"{taken[0]} of {plural(taken[1], 'trial')} of {config.reuse} taken over", highlight=False)
        if stale := reclaim(study, alone=config.storage is None):
            console.print(f"{plural(stale, 'trial')} of a run that died tried again")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain)))
        command, resume = commands(argv, config.trials)
        with ExitStack() as closing:
            card = StudyCard.of(experiment, command, command)
            card.keep(study)
            tracker = _tracker(config, card, study, folder, console)
            sweep = Sweep(experiment, study, folder, tracker)
            if tracker is not None:
                closing.enter_context(tracker)
            _greet(console, experiment, sweep, folder)
            with SweepProgress(console, sweep.finished, config.trials, watch(sweep, experiment)) as progress:
                try:
                    work = ModelWork(experiment, folder, fidelities)
                    executor: Executor = InProcess(work)
                    if config.workers > 1:
                        executor = LocalProcesses(work, config.workers)
                    why = sweep.run(config.trials, executor, progress, interrupts)
                except Stopped as stop:
                    code = stop.exit_code
                    progress.say("stopping: writing the report of what is there")
                except SweepError as error:
                    problem = error
            nothing_to_do = why is not None and not sweep.records
            if why is not None and not nothing_to_do:
                console.print(f"ended after {plural(sweep.finished, 'trial')}: {why}", highlight=False, soft_wrap=True)
            card = StudyCard.of(experiment, command, command if code else resume)
            written = write_results(
                card, experiment, study, sweep, tracker, folder,
                images=config.report.images and not code, stopping=lambda: interrupts.pending,
            )  # fmt: skip
            print_front(console, written.published, written.state)
            if (kept := recalled(sweep.records)).hits:
                console.print(str(kept), highlight=False)
            accounts = [f"{count} {kind} turned down before training" for kind, count in turned_down(study).items()]
            for message in (*accounts, *digest(sweep.records), *written.messages):
                console.print(message, markup=False, highlight=False, soft_wrap=True)
            if tracker is not None:
                tracker.close("KILLED" if code else "FAILED" if problem else "FINISHED")
    seconds = time.monotonic() - started
    more = None if why == sweep.asker.exhausted else card.resume
    _farewell(console, written.published.report, tracker, more, bool(code), seconds)
    if problem is None and not code and all(record.state != "complete" for record in sweep.records):
        nothing = "no trial succeeded; the report says why each failed"
        problem = SweepError(f"no trial could be run: {why}" if nothing_to_do else nothing)
    if problem is not None:
        raise problem
    return code


def _forget_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing but the lock was made, so that a failed start leaves no trace."""
    if {path.name for path in folder.iterdir()} <= {".lock"}:
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()


def _tracker(config: Config, card: Any, study: Any, folder: Path, console: Console) -> Any:
    from sweeps.search.study.record import records
    from sweeps.views.mlflow.open_tracker import open_tracker

    if not config.tracking.enabled:
        return None

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    return open_tracker(card, study, folder, say, records=records(study))


def _greet(console: Console, experiment: Any, sweep: Any, folder: Path) -> None:
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


def _farewell(console: Console, report: Path, tracker: Any, more: str | None, stopped: bool, seconds: float) -> None:
    def line(label: str, text: str) -> None:
        console.print(f"{label:<8}{text}", markup=False, highlight=False, soft_wrap=True)

    line("report", str(report))
    if tracker is not None and tracker.place is not None:
        line("MLflow", tracker.place.ui)
        line("", f"then open {tracker.place.link}")
        line("", f"the study {tracker.place.study_link}")
    if more is not None:
        line("resume" if stopped else "extend", more)
    console.print(f"done in {seconds:.0f} s", highlight=False)


if __name__ == "__main__":
    main()
