"""MLflow as a view of the study: a parent run for the study, a child run for each trial.

Everything is written by one background thread, a trial in one batch, so that logging is off the critical path and an
unreachable server never stops or slows a sweep: the first failure is reported once, and what could not be written is
still in the study's storage.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.study import Record

_STATUS = {"complete": "FINISHED", "failed": "FAILED", "infeasible": "FAILED", "interrupted": "KILLED"}
_STUDY_TAG = "kmr.study_id"
_TRIAL_TAG = "kmr.trial"
_PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class Place:
    """Where a study's runs are: what a user needs to open them."""

    uri: str
    experiment_id: str
    run_id: str

    @property
    def ui(self) -> str:
        """The command that shows the study, or the server's address."""
        if self.uri.startswith("http"):
            return self.link
        return f"mlflow ui --backend-store-uri {self.uri}"

    @property
    def link(self) -> str:
        """The page of the experiment in the layout for training runs."""
        root = self.uri.rstrip("/") if self.uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{root}/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"


class Tracker:
    """Writes a study to MLflow from a thread of its own.

    Args:
        uri: a tracking URI; None is a sqlite file in `folder`.
        experiment: the MLflow experiment's name.
        study_id: what tells this study's runs from others on the same server, stable over resumes.
        folder: of the study.
        say: prints a message to the user.
    """

    def __init__(
        self, uri: str | None, experiment: str, study_id: str, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self._artifacts = (folder / "mlartifacts").as_uri() if uri is None else None
        self._experiment, self._study_id, self._say = experiment, study_id, say
        self._queue: queue.Queue[Callable[[], None] | threading.Event | None] = queue.Queue()
        self._client: Any = None
        self._broken: str | None = None
        self.place: Place | None = None
        self.run_ids: dict[int, str] = {}
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def start(self, params: Mapping[str, str], tags: Mapping[str, str], config: str) -> None:
        """Open the parent run, or the one of an earlier start."""
        self._queue.put(lambda: self._start(params, tags, config))

    def log_trial(self, record: Record, hypervolume: float, name: str) -> None:
        """Write a finished trial as a child run, unless it is there, and the hypervolume after it on the parent."""
        at = int(time.time() * 1000)
        self._queue.put(lambda: self._log_trial(record, hypervolume, name, at))

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Copy files or folders to the parent run: the artifact path by name, and where each is now."""
        self._queue.put(lambda: self._log_files(files))

    def clear(self, artifact_path: str) -> None:
        """Remove a folder of the parent run's artifacts, before what is in it now is copied there."""
        self._queue.put(lambda: self._clear(artifact_path))

    def log_final(self, metrics: Mapping[str, float], tags: Mapping[str, str], front: Mapping[int, str]) -> None:
        """Write closing metrics and tags on the parent, and mark the trials on the front."""
        self._queue.put(lambda: self._log_final(metrics, tags, front))

    def close(self, status: str) -> None:
        """End the parent run with this status and wait until everything is written, at most two minutes."""
        self._queue.put(lambda: self._client.set_terminated(self._run, status))
        self._queue.put(None)
        self._thread.join(timeout=120)

    def flush(self) -> None:
        """Wait until all that was handed over so far is written, at most two minutes."""
        done = threading.Event()
        self._queue.put(done)
        done.wait(timeout=120)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if isinstance(task, threading.Event):
                task.set()
                continue
            if self._broken is not None:
                continue
            try:
                task()
            except Exception as error:
                self._broken = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                self._say(f"MLflow at {self._uri} failed, the sweep goes on without it: {self._broken}")

    @property
    def _open(self) -> Place:
        if self.place is None:
            raise RuntimeError("the parent run is not open")
        return self.place

    @property
    def _run(self) -> str:
        return self._open.run_id

    def _start(self, params: Mapping[str, str], tags: Mapping[str, str], config: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import logging
        import warnings

        warnings.filterwarnings("ignore", message=".*SOCKS support")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        known = self._client.get_experiment_by_name(self._experiment)
        experiment_id = (
            self._client.create_experiment(self._experiment, artifact_location=self._artifacts)
            if known is None
            else known.experiment_id
        )
        found = self._search(experiment_id, f"tags.`{_STUDY_TAG}` = '{self._study_id}'")
        parents = [run for run in found if _PARENT_TAG not in run.data.tags]
        self.run_ids = {int(run.data.tags[_TRIAL_TAG]): run.info.run_id for run in found if _TRIAL_TAG in run.data.tags}
        if parents:
            run = parents[0]
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self._client.create_run(experiment_id, tags={_STUDY_TAG: self._study_id}, run_name=self._experiment)
        self.place = Place(self._uri, experiment_id, run.info.run_id)
        if not parents:
            self._client.log_batch(self._run, params=[Param(key, value[:6000]) for key, value in params.items()])
        self._client.log_batch(self._run, tags=[RunTag(key, value[:5000]) for key, value in tags.items()])
        self._client.log_text(self._run, config, "config.yaml")

    def _search(self, experiment_id: str, query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([experiment_id], query, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _log_trial(self, record: Record, hypervolume: float, name: str, at: int) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_metric(self._run, "hypervolume", hypervolume, timestamp=at, step=record.number)
        if record.number in self.run_ids:
            return
        started = at - int(record.seconds * 1000)
        tags = {_STUDY_TAG: self._study_id, _TRIAL_TAG: str(record.number), _PARENT_TAG: self._run}
        run = self._client.create_run(self._open.experiment_id, started, tags, run_name=name)
        metrics = [
            Metric(reading, value, at, point.step)
            for point in record.points
            for reading, (value, _) in point.readings.items()
            if value is not None
        ]
        metrics.append(Metric("seconds", record.seconds, at, 0))
        more = {"kmr.state": record.state, "kmr.notes": "; ".join(record.notes), "kmr.error": record.error or ""}
        if record.final is not None:
            more["kmr.sequence"] = str(record.final.moves)
        self._client.log_batch(
            run.info.run_id,
            metrics=metrics[-1000:],
            params=[Param(key, str(value)) for key, value in record.params.items()],
            tags=[RunTag(key, value[:5000]) for key, value in more.items() if value],
        )
        self._client.set_terminated(run.info.run_id, _STATUS[record.state], end_time=at)
        self.run_ids[record.number] = run.info.run_id

    def _log_files(self, files: Mapping[str, Path]) -> None:
        for target, path in files.items():
            if path.is_dir():
                self._client.log_artifacts(self._run, str(path), target)
            elif path.exists():
                self._client.log_artifact(self._run, str(path), target or None)

    def _clear(self, artifact_path: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if self._client.list_artifacts(self._run, artifact_path):
            uri = self._client.get_run(self._run).info.artifact_uri
            get_artifact_repository(uri, tracking_uri=self._uri).delete_artifacts(artifact_path)  # type: ignore[no-untyped-call]

    def _log_final(self, metrics: Mapping[str, float], tags: Mapping[str, str], front: Mapping[int, str]) -> None:
        from mlflow.entities import Metric, RunTag

        at = int(time.time() * 1000)
        self._client.log_batch(
            self._run,
            metrics=[Metric(key, value, at, 0) for key, value in metrics.items()],
            tags=[RunTag(key, value[:5000]) for key, value in tags.items()],
        )
        marked = self._search(
            self._open.experiment_id, f"tags.`{_PARENT_TAG}` = '{self._run}' and tags.pareto = 'true'"
        )
        now_on_front = {self.run_ids[trial]: points for trial, points in front.items() if trial in self.run_ids}
        for run in marked:
            if run.info.run_id not in now_on_front:
                self._client.delete_tag(run.info.run_id, "pareto")
        for run_id, points in now_on_front.items():
            self._client.log_batch(run_id, tags=[RunTag("pareto", "true"), RunTag("pareto.points", points)])
