"""Trials of a sweep, written to MLflow as they end."""

from sweeps.experiment.saved_front import SavedFront
from sweeps.search.execution.observer import Observer
from sweeps.search.study.record import Record
from sweeps.views.mlflow.runs import run_name
from sweeps.views.mlflow.tracker import Tracker


class TrialTracking(Observer):
    """Observer that hands every trial to the tracker.

    Args:
        tracker: started.
        saved: holds the front.
    """

    def __init__(self, tracker: Tracker, saved: SavedFront) -> None:
        self._tracker, self._saved = tracker, saved

    def closed(self, record: Record) -> None:
        """Write the trial's run, and where the study stands after it."""
        front = self._saved.front
        self._tracker.log_trial(record, front.hypervolume, run_name(record), front.members)
