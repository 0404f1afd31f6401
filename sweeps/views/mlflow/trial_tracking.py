"""Tracking of a sweep's trials in MLflow as they end."""

from sweeps.experiment.saved_front import SavedFront
from sweeps.search.execution.observer import Observer
from sweeps.search.study.record import Record
from sweeps.views.mlflow.runs import run_name
from sweeps.views.mlflow.tracker import Tracker


class TrialTracking(Observer):
    """Observer that writes every trial to the tracker.

    Args:
        tracker: a started tracker.
        saved: holds the front.
    """

    def __init__(self, tracker: Tracker, saved: SavedFront) -> None:
        self._tracker, self._saved = tracker, saved

    def closed(self, record: Record) -> None:
        """Write the trial's run, and the study's figures after it."""
        front = self._saved.front
        self._tracker.log_trial(record, front.hypervolume, run_name(record), front.members)
