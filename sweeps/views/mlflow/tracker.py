"""Tracker that writes a study to MLflow from one background thread.

An unreachable server neither stops nor slows a sweep. The tracker reports the failure once, retries from time to time,
and writes everything that is missing as soon as it succeeds. Later, `python -m sweeps.sync` does the same from the
study's storage.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sweeps.search.study.record import Record
from sweeps.views.card import DatasetCard
from sweeps.views.mlflow.backlog import PACE, Backlog, Finished
from sweeps.views.mlflow.models import FrontModel, log_front_models
from sweeps.views.mlflow.runs import RunPlace, StudyRuns
from sweeps.views.paths import MLFLOW, MLFLOW_FILES

_PATIENCE = 120.0
"""Seconds to wait at the end for pending writes."""
_COURTESY = 0.1
"""Seconds to wait after a trial's end before writing, so that the driver can propose the next trial undisturbed."""


class Tracker:
    """A writer to MLflow with a thread of its own; as a context manager, it closes the study's run in any case.

    Args:
        uri: a tracking URI; None uses a SQLite file in `folder`.
        experiment: the MLflow experiment's name.
        study_id: identifies this study's runs on the server, and does not change when the study is resumed.
        folder: the study's folder.
        say: prints a message to the user.
        system_metrics: also write the machine's load while the study runs.
        figures: returns further figures of the study after a trial; called once for each trial, in order.
        retry: seconds between a failure and the next attempt.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        study_id: str,
        folder: Path,
        say: Callable[[str], None],
        *,
        system_metrics: bool = False,
        figures: Callable[[Record], Mapping[str, float]] = lambda record: {},
        retry: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = uri or f"sqlite:///{folder / MLFLOW}"
        self._artifacts = (folder / MLFLOW_FILES).as_uri() if uri is None else None
        self._experiment, self._study_id, self._folder, self._say = experiment, study_id, folder, say
        self._figures = figures
        self._system_metrics, self._retry, self._clock = system_metrics, retry, clock
        self._queue: queue.Queue[Callable[[], None] | threading.Event | None] = queue.Queue()
        self._runs: StudyRuns | None = None
        self._backlog = Backlog(clock)
        self._open: Callable[[], None] = lambda: None
        self._failed_at: float | None = None
        self._monitor: Any = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def place(self) -> RunPlace | None:
        """The address of the runs; None while they are not open."""
        return self._runs.place if self._runs is not None else None

    @property
    def run_ids(self) -> dict[int, str]:
        """The ids of the written runs, by trial."""
        return dict(self._runs.run_ids) if self._runs is not None else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._closed:
            self.close("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    def start(
        self, params: Mapping[str, str], tags: Mapping[str, str], config: str, datasets: Sequence[DatasetCard] = ()
    ) -> None:
        """Open the study's run, a new one or that of an earlier start."""

        def open_runs() -> None:
            runs = StudyRuns(self._uri, self._experiment, self._study_id, self._artifacts)
            runs.describe(params, tags, config, datasets)
            self._runs = runs
            if self._system_metrics:
                self._start_monitor(runs)

        self._open = open_runs
        self._queue.put(open_runs)

    def log_trial(
        self,
        record: Record,
        hypervolume: float,
        name: str,
        on_front: Collection[str] | None = None,
    ) -> None:
        """Write a finished trial as a child run, unless it is there, and the study's figures after it to the parent.

        Args:
            record: the trial.
            hypervolume: the front's hypervolume after the trial.
            name: the run's name.
            on_front: the front after the trial, whose points get the tag `pareto`; None leaves the tags unchanged.
        """
        self._backlog.add([Finished(record, name, hypervolume, on_front, self._figures(record))])
        self._queue.put(self._write_waiting)

    def backfill(self, count: int, trials: Callable[[], Iterable[Finished]]) -> None:
        """Write the earlier trials that are missing, as after a run without MLflow or a killed one.

        Args:
            count: the number of trials; nothing is written if MLflow has as many.
            trials: returns the trials.
        """
        self._queue.put(lambda: self._backfill(count, trials))

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Copy files or folders to the parent run; `files` maps each artifact path to the local one."""
        self._queue.put(lambda: self._opened.files(files))

    def log_final(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        on_front: Collection[str],
        tested: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Write final metrics and tags to the parent, mark the trials on the front, and add test readings by point."""
        self._queue.put(lambda: self._log_final(metrics, tags, on_front, tested or {}))

    def log_models(self, members: Sequence[FrontModel], example: Any) -> None:
        """Log models that MLflow can load and register, unless they are there; `example` is a batch of inputs."""
        self._queue.put(lambda: log_front_models(self._opened, self._experiment, members, example, self._say))

    def close(self, status: str) -> None:
        """End the study's run with this status and wait up to two minutes for pending writes."""
        self._closed = True
        self._queue.put(lambda: self._end(status))
        self._queue.put(None)
        self._thread.join(timeout=_PATIENCE)
        if self._thread.is_alive() or self._failed_at is not None:
            self._say(f"MLflow is incomplete: python -m sweeps.sync {self._folder} writes the rest")

    def flush(self) -> None:
        """Wait up to two minutes for pending writes."""
        done = threading.Event()
        self._queue.put(done)
        done.wait(timeout=_PATIENCE)

    def _work(self) -> None:
        while (task := self._next_task()) is not None:
            try:
                if self._failed_at is not None:
                    self._reopen()
                if self._failed_at is None:
                    self._do(task)
            except Exception as error:
                self._fail(error)
            if isinstance(task, threading.Event):
                task.set()
        with contextlib.suppress(Exception):
            self._stop_monitor()

    def _next_task(self) -> Callable[[], None] | threading.Event | None:
        """Wait for a task; if none arrives while the study's run lacks figures, the task is to write them."""
        try:
            return self._queue.get(timeout=PACE if self._backlog.lags and self._failed_at is None else None)
        except queue.Empty:
            return self._write_standing

    def _do(self, task: Callable[[], None] | threading.Event) -> None:
        if len(self._backlog) and task == self._write_waiting:
            time.sleep(_COURTESY)
        if self._backlog.lags and task != self._write_waiting:
            self._write_standing()
        if not isinstance(task, threading.Event):
            task()

    def _reopen(self) -> None:
        """Reopen the runs once `retry` seconds have passed, and write the waiting trials; files follow at the end."""
        assert self._failed_at is not None
        if self._clock() - self._failed_at < self._retry:
            return
        self._failed_at = self._clock()
        with contextlib.suppress(Exception):
            self._open()
            self._write_waiting()
            self._failed_at = None
            self._say(f"MLflow at {self._uri} is back and has all trials")

    def _fail(self, error: Exception) -> None:
        if self._failed_at is None:
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            self._say(f"MLflow at {self._uri} failed, and the sweep continues without it: {why}")
        self._failed_at = self._clock()

    @property
    def _opened(self) -> StudyRuns:
        if self._runs is None:
            raise RuntimeError("the study's run is not open")
        return self._runs

    def _write_waiting(self) -> None:
        self._backlog.write(self._opened)

    def _write_standing(self) -> None:
        self._backlog.write_standing(self._opened)

    def _backfill(self, count: int, trials: Callable[[], Iterable[Finished]]) -> None:
        if len(self._opened.run_ids) < count:
            self._backlog.add(trials())
            self._write_waiting()

    def _log_final(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        on_front: Collection[str],
        tested: Mapping[str, Mapping[str, float]],
    ) -> None:
        runs = self._opened
        runs.write(runs.parent, [(name, value, 0) for name, value in metrics.items()], tags=tags)
        runs.mark(on_front)
        for point, readings in tested.items():
            trial, _, step = point.partition(".")
            run = runs.run_ids.get(int(trial)) if trial.isdigit() else runs.parent if point == "base" else None
            if run is not None:
                runs.write(run, [(f"test/{name}", value, int(step or 0)) for name, value in readings.items()])

    def _end(self, status: str) -> None:
        self._stop_monitor()
        self._opened.client.set_terminated(self._opened.parent, status)

    def _start_monitor(self, runs: StudyRuns) -> None:
        """Start MLflow's monitor of the machine's load; without psutil there is none."""
        self._stop_monitor()
        with contextlib.suppress(ImportError):
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor: Any = SystemMetricsMonitor
            self._monitor = monitor(runs.parent, resume_logging=True, tracking_uri=self._uri)
            self._monitor.start()

    def _stop_monitor(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.finish()
