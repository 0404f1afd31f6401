"""A study's runs on an MLflow server: a parent for the study and a child for each trial.

Every call writes at once; `sweeps.views.mlflow.tracker` adds the background thread and the retries. Writes are
idempotent: a complete run is not changed, and a run that a killed process left incomplete is replaced.
"""

import getpass
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState
from sweeps.views.card import DatasetCard
from sweeps.views.paths import CONFIG

STUDY_TAG = "kmr.study_id"
TRIAL_TAG = "kmr.trial"
PARENT_TAG = "mlflow.parentRunId"
_STATUS = {
    TrialState.COMPLETE: "FINISHED", TrialState.DUPLICATE: "FINISHED", TrialState.EARLY_STOPPED: "FINISHED",
    TrialState.RETRIED: "KILLED",
}  # fmt: skip
"""The status of a run by its trial's state; any other state is a failure."""
_LAYOUT = "workflowType=machine_learning"
"""The query for the layout for training runs; MLflow 3 otherwise uses the one for language models."""
_LONGEST_TAG = 5000
_SERVER = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class RunPlace:
    """The address of a study's runs."""

    uri: str
    experiment_id: str
    run_id: str

    @property
    def ui(self) -> str:
        """The command that shows the study, or the server's address."""
        return self.link if self.uri.startswith("http") else f"mlflow ui --backend-store-uri {quote(self.uri)}"

    @property
    def link(self) -> str:
        """The experiment's page in the layout for training runs."""
        return f"{self._root}/#/experiments/{self.experiment_id}/runs?{_LAYOUT}"

    @property
    def study_link(self) -> str:
        """The page of the study's own run, in the same layout."""
        return f"{self._root}/#/experiments/{self.experiment_id}/runs/{self.run_id}?{_LAYOUT}"

    @property
    def _root(self) -> str:
        return self.uri.rstrip("/") if self.uri.startswith("http") else _SERVER


class StudyRuns:
    """The runs of one study.

    Args:
        uri: a tracking URI.
        experiment: the MLflow experiment's name; a missing one is created.
        study_id: identifies this study's runs on the server, and does not change when the study is resumed.
        artifacts: where a new experiment stores its artifacts; None uses the server's default.
    """

    def __init__(self, uri: str, experiment: str, study_id: str, artifacts: str | None = None) -> None:
        self.client = connect(uri)
        self._study_id = study_id
        known = self.client.get_experiment_by_name(experiment)
        experiment_id = (
            self.client.create_experiment(experiment, artifact_location=artifacts)
            if known is None
            else known.experiment_id
        )
        self.run_ids: dict[int, str] = {}
        self._marked: dict[str, str] = {}
        parents = []
        for run in self._search(experiment_id, f"tags.`{STUDY_TAG}` = '{study_id}'"):
            if PARENT_TAG not in run.data.tags:
                parents.append(run)
            elif run.info.status == "RUNNING":  # the process that wrote it was killed
                self.client.delete_run(run.info.run_id)
            elif TRIAL_TAG in run.data.tags:
                self.run_ids[int(run.data.tags[TRIAL_TAG])] = run.info.run_id
                if run.data.tags.get("pareto") == "true":
                    self._marked[run.info.run_id] = run.data.tags.get("pareto.points", "")
        self.is_new = not parents
        if parents:
            parent = parents[0].info.run_id
            self.client.update_run(parent, status="RUNNING")
        else:
            tags = {STUDY_TAG: study_id, **_source()}
            parent = self.client.create_run(experiment_id, tags=tags, run_name=experiment).info.run_id
        self.place = RunPlace(uri, experiment_id, parent)

    @property
    def parent(self) -> str:
        """The id of the study's run."""
        return self.place.run_id

    def describe(
        self, params: Mapping[str, str], tags: Mapping[str, str], config: str, datasets: Sequence[DatasetCard]
    ) -> None:
        """Write the study's config, tags and data to the parent run."""
        self.write(self.parent, params=params if self.is_new else {}, tags=tags)
        self.client.log_text(self.parent, config, CONFIG)
        if self.is_new and datasets:
            self._log_datasets(datasets)
        self.is_new = False

    def trial(self, record: Record, name: str) -> None:
        """Write a finished trial as a child run, unless it is there."""
        if record.number in self.run_ids:
            return
        end = _milliseconds(record.finished)
        start = end - int(record.seconds * 1000)
        tags = {STUDY_TAG: self._study_id, TRIAL_TAG: str(record.number), PARENT_TAG: self.parent, **_source()}
        more = {"kmr.state": record.state, "kmr.notes": "; ".join(record.notes), "kmr.error": record.error or ""}
        if record.final is not None:
            more["kmr.sequence"] = str(record.final.moves)
        if record.duplicate_of is not None:
            more["kmr.duplicate_of"] = str(record.duplicate_of)
        metrics = []
        for point in record.points:
            for reading, (value, stderr) in point.readings.items():
                metrics.append((reading, value, point.step))
                metrics.append((f"stderr/{reading}", stderr, point.step))
        metrics.append(("seconds", record.seconds, 0))
        tags |= {key: value[:_LONGEST_TAG] for key, value in more.items() if value}
        if record.recalled.hits:
            metrics.append(("cache/moves_recalled", float(record.recalled.hits), 0))
            metrics.append(("cache/seconds_saved", record.recalled.seconds_saved, 0))
        run = self.client.create_run(self.place.experiment_id, start, tags, run_name=name).info.run_id
        self.write(run, metrics, {key: str(value) for key, value in record.params.items()}, at=end)
        self.client.set_terminated(run, _STATUS.get(record.state, "FAILED"), end_time=end)
        self.run_ids[record.number] = run

    def mark(self, on_front: Collection[str]) -> None:
        """Keep the tag `pareto` on exactly the trials that have points on the front."""
        points: dict[str, list[str]] = {}
        for name in on_front:
            trial = name.partition(".")[0]
            if trial.isdigit() and int(trial) in self.run_ids:
                points.setdefault(self.run_ids[int(trial)], []).append(name)
        now = {run: ", ".join(names) for run, names in points.items()}
        for run in self._marked.keys() - now.keys():
            self.write(run, tags={"pareto": "false", "pareto.points": ""})
        for run, names in now.items():
            if self._marked.get(run) != names:
                self.write(run, tags={"pareto": "true", "pareto.points": names})
        self._marked = now

    def files(self, files: Mapping[str, Path]) -> None:
        """Copy files or folders to the parent run; `files` maps each artifact path to the local one."""
        for target, path in files.items():
            if path.is_dir():
                self.client.log_artifacts(self.parent, str(path), target)
            elif path.exists():
                self.client.log_artifact(self.parent, str(path), target or None)

    def write(
        self,
        run: str,
        metrics: Iterable[tuple[str, float | None, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        at: int | None = None,
    ) -> None:
        """Write (name, value, step) metrics, parameters and tags in as few calls as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        at = at or int(time.time() * 1000)
        rows = [Metric(as_name(name), float(value), at, step) for name, value, step in metrics if value is not None]
        pairs = [Param(as_name(name), value[:6000]) for name, value in (params or {}).items()]
        notes = [RunTag(name, value[:_LONGEST_TAG]) for name, value in (tags or {}).items()]
        while rows or pairs or notes:
            self.client.log_batch(run, rows[:700], pairs[:100], notes[:100])
            rows, pairs, notes = rows[700:], pairs[100:], notes[100:]

    def _log_datasets(self, datasets: Sequence[DatasetCard]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self.client.log_inputs(
            self.parent,
            [
                DatasetInput(
                    Dataset(
                        data.name, data.digest, "code", json.dumps({"code": data.name}),
                        profile=json.dumps({"num_rows": data.rows}),
                    ),
                    [InputTag("mlflow.data.context", data.context)],
                )
                for data in datasets
            ],
        )  # fmt: skip

    def _search(self, experiment_id: str, query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs([experiment_id], query, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found


def as_name(text: str) -> str:
    """Return a name that MLflow accepts for a metric or a parameter."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:250]


def run_name(record: Record) -> str:
    """Name a trial's run by its number and its knobs."""
    settings = (
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in record.params.items()
    )  # fmt: skip
    return f"{record.number}: {', '.join(settings)}"[:200]


def connect(uri: str) -> Any:
    """Return a client for the server or database at a URI, with short timeouts and little logging."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", message=".*SOCKS support")
    chatter = ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor", "urllib3")
    for name in chatter:
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _source() -> dict[str, str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "sweeps.run", "mlflow.source.type": "LOCAL"}


def _milliseconds(finished: str) -> int:
    try:
        return int(datetime.fromisoformat(finished).timestamp() * 1000)
    except ValueError:
        return int(time.time() * 1000)
