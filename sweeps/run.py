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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from analysis.wording import plural
from sweeps.errors import SweepError
from sweeps.experiment.assessment.held_out import test_point
from sweeps.experiment.build_experiment import build_experiment
from sweeps.experiment.config import Config, threads_of
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.fidelity import Fidelities, fidelities_of
from sweeps.experiment.model_work import ModelWork
from sweeps.experiment.open_study import open_study, run_folder, with_base
from sweeps.experiment.remade import kept_remade
from sweeps.experiment.saved_front import SavedFront
from sweeps.experiment.study_code import note_of
from sweeps.experiment.sweep import Sweep
from sweeps.experiment.take_over import take_over
from sweeps.search.execution.executors import Executor, InProcess, LocalProcesses
from sweeps.search.execution.interrupts import Interrupts, Stopped
from sweeps.search.execution.observer import Observer
from sweeps.search.study.failures import digest
from sweeps.search.study.lease import reclaim
from sweeps.search.study.proposal import count_untrained
from sweeps.search.study.record import recalled, records
from sweeps.terminal.commands import commands
from sweeps.terminal.front_table import print_front
from sweeps.terminal.greeting import farewell, greet
from sweeps.terminal.hydra_entry import enter, guarded
from sweeps.terminal.progress import SweepProgress, TrialProgress, watch
from sweeps.views.card import StudyCard
from sweeps.views.finish import Written, write_results
from sweeps.views.mlflow.open_tracker import open_tracker
from sweeps.views.mlflow.results_tracking import ResultsTracking
from sweeps.views.mlflow.tracker import Tracker
from sweeps.views.mlflow.trial_tracking import TrialTracking
from sweeps.views.paths import CONFIG, LOCK


def main() -> None:
    """Run the experiment named on the command line, or list all experiments; exit with 0, 1, 2, 130 or 143."""
    enter(_sweep, __doc__)


def run(raw: DictConfig, argv: list[str], console: Console | None = None) -> int:
    """Run a composed config; return the exit code.

    Args:
        raw: the config, validated against `sweeps.experiment.config.Config`.
        argv: its overrides, for the printed commands.
        console: console to print on.
    """
    return guarded(_sweep, raw, argv, console)


@dataclass(frozen=True)
class _Prepared:
    """Open study with its experiment and the commands to print."""

    experiment: Experiment
    study: optuna.Study
    fidelities: Fidelities | None
    folder: Path
    reused: tuple[int, int] | None
    command: str
    resume: str


@dataclass(frozen=True)
class _Searched:
    """End of a search: its reason, exit code and error."""

    sweep: Sweep
    saved: SavedFront
    why: str | None = None
    stopped: int = 0
    problem: SweepError | None = None

    @property
    def did_nothing(self) -> bool:
        """Whether there was nothing to try."""
        return self.why is not None and not self.sweep.records


def _sweep(config: Config, plain: dict[str, Any], argv: list[str], console: Console) -> int:
    """Prepare, search, report; return the exit code."""
    started = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The greeting already names the sampler.
    logging.getLogger("sweeps.search.proposals.choose_sampler").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    torch.set_num_threads(threads_of(config))
    folder = run_folder(config.output_dir, config.name)
    with _locked(folder), Interrupts() as interrupts:
        try:
            with interrupts.allowed():
                prepared = _prepare(config, plain, argv, folder)
        except Stopped as stop:
            console.print("stopped before the first trial")
            return stop.exit_code
        except SweepError:
            _forget_if_empty(folder)
            raise
        _take_up(prepared, console)
        tracker = _open_tracker(prepared, console)
        with tracker or nullcontext():
            searched = _search(prepared, tracker, console, interrupts)
            written = _report(prepared, searched, tracker, console, interrupts)
            if tracker is not None:
                tracker.close("KILLED" if searched.stopped else "FAILED" if searched.problem else "FINISHED")
    exhausted = searched.why == searched.sweep.asker.exhausted
    more = None if exhausted else prepared.command if searched.stopped else prepared.resume
    place = ResultsTracking(tracker).place if tracker is not None else None
    farewell(console, written.published.report, place, more, bool(searched.stopped), time.monotonic() - started)
    return _exit_code(searched)


def _prepare(config: Config, plain: dict[str, Any], argv: list[str], folder: Path) -> _Prepared:
    """Build the experiment, open its study and measure the base model, on test data too."""
    experiment = build_experiment(config, plain)
    study = open_study(experiment, folder)
    fidelities = fidelities_of(experiment)
    reused = take_over(study, experiment, folder)
    experiment = with_base(study, experiment)
    test_point(experiment, study, folder, "base")
    return _Prepared(experiment, study, fidelities, folder, reused, *commands(argv, config.trials))


def _take_up(prepared: _Prepared, console: Console) -> None:
    """Queue the trials of a dead run for a retry, write the config, and print what was reused."""
    config, reused = prepared.experiment.config, prepared.reused
    if reused is not None:
        console.print(f'reused {reused[0]} of {plural(reused[1], "trial")} from "{config.reuse}"', highlight=False)
    if stale := reclaim(prepared.study, alone=config.storage is None):
        console.print(f"retrying {plural(stale, 'trial')} of a run that died")
    plain = OmegaConf.create(dict(prepared.experiment.plain))
    (prepared.folder / CONFIG).write_text(OmegaConf.to_yaml(plain))


def _search(prepared: _Prepared, tracker: Tracker | None, console: Console, interrupts: Interrupts) -> _Searched:
    """Run the trials, with observers for the progress display and MLflow."""
    experiment, folder, config = prepared.experiment, prepared.folder, prepared.experiment.config
    saved = SavedFront(experiment, folder, kept_remade(prepared.study))
    sweep = Sweep(experiment, prepared.study, saved)
    greet(console, experiment, sweep, folder)
    work = ModelWork(experiment, folder, prepared.fidelities, note_of(prepared.study))
    executor: Executor = InProcess(work) if config.workers == 1 else LocalProcesses(work, config.workers)
    with SweepProgress(console, sweep.finished, config.trials, watch(sweep, experiment)) as progress:
        listeners: list[Observer] = [TrialProgress(progress, sweep)]
        if tracker is not None:
            listeners.append(TrialTracking(tracker, saved))
        try:
            why = sweep.run(config.trials, executor, interrupts, listeners, progress.say)
        except Stopped as stop:
            progress.say("stopping: writing the report of the finished trials")
            return _Searched(sweep, saved, stopped=stop.exit_code)
        except SweepError as error:
            return _Searched(sweep, saved, problem=error)
    return _Searched(sweep, saved, why)


def _report(
    prepared: _Prepared, searched: _Searched, tracker: Tracker | None, console: Console, interrupts: Interrupts
) -> Written:
    """Assess the front, write every view of the study, and print a summary."""
    sweep, config = searched.sweep, prepared.experiment.config
    if searched.why is not None and not searched.did_nothing:
        ended = f"ended after {plural(sweep.finished, 'trial')}: {searched.why}"
        console.print(ended, highlight=False, soft_wrap=True)
    resume = prepared.command if searched.stopped else prepared.resume
    written = write_results(
        StudyCard.of(prepared.experiment, prepared.command, resume), prepared.experiment, prepared.study,
        sweep.records, searched.saved, ResultsTracking(tracker) if tracker is not None else None, prepared.folder,
        images=config.report.images and not searched.stopped, stopping=lambda: interrupts.pending,
    )  # fmt: skip
    print_front(console, written.published, written.state)
    if (kept := recalled(sweep.records)).hits:
        console.print(str(kept), highlight=False)
    accounts = [f"{count} {state} before training" for state, count in count_untrained(prepared.study).items()]
    for message in (*accounts, *digest(sweep.records), *written.messages):
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    return written


def _exit_code(searched: _Searched) -> int:
    """Return the exit code of a search, or raise its error."""
    if searched.problem is not None:
        raise searched.problem
    if not searched.stopped and not any(record.state.has_result for record in searched.sweep.records):
        nothing = "no trial succeeded; the report says why each failed"
        raise SweepError(f"no trial could be run: {searched.why}" if searched.did_nothing else nothing)
    return searched.stopped


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder, so that no other sweep runs in it."""
    lock = FileLock(folder / LOCK)
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise SweepError(f"another sweep is running in {folder}: wait for it, or choose another name=…") from error
    with held:
        yield


def _forget_if_empty(folder: Path) -> None:
    """Remove a folder that holds only the lock, so that a failed start leaves no trace."""
    if {path.name for path in folder.iterdir()} <= {LOCK}:
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _open_tracker(prepared: _Prepared, console: Console) -> Tracker | None:
    """Store the study's card, and start the tracker if the config enables it."""
    card = StudyCard.of(prepared.experiment, prepared.command, prepared.command)
    card.keep(prepared.study)
    if not prepared.experiment.config.tracking.enabled:
        return None

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    return open_tracker(card, prepared.study, prepared.folder, say, records=records(prepared.study))


if __name__ == "__main__":
    main()
