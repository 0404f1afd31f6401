"""Results of a study in MLflow: final figures, the front with its models, and the report."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.selection.standing_answers import recommend
from analysis.table import StudyTable
from sweeps.experiment.front import Front
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.record import recalled
from sweeps.search.study.trial_state import TrialState
from sweeps.views.card import without_passwords
from sweeps.views.mlflow.models import FrontModel
from sweeps.views.mlflow.study_note import study_note
from sweeps.views.mlflow.tracker import Tracker
from sweeps.views.state import State


class ResultsTracking:
    """Writer of a study's results to a tracker.

    Args:
        tracker: a started tracker.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    @property
    def run_ids(self) -> Mapping[int, str]:
        """The id of each trial's run, after all pending writes."""
        self._tracker.flush()
        return self._tracker.run_ids

    @property
    def place(self) -> Mapping[str, str] | None:
        """The addresses of the study's run; None if MLflow was never reached."""
        place = self._tracker.place
        if place is None:
            return None
        return {**asdict(place), "ui": place.ui, "link": place.link, "study_link": place.study_link}

    def files(self, folder: str, *paths: Path) -> None:
        """Copy files into a folder of the study's artifacts."""
        for path in paths:
            self._tracker.log_files({folder: path})

    def results(self, state: State, front: Front, table: StudyTable, example: Any) -> None:
        """Write the final figures, mark the front, and log its members as models.

        Args:
            state: the study's state.
            front: the front of all records.
            table: the results table.
            example: a batch of inputs; None logs no models.
        """
        folder, points = table.folder, state.points
        answers = [answer.sentence for answer in recommend(table)]
        metrics = {
            "hypervolume_final": front.hypervolume,
            "trials_finished": float(sum(record.state != TrialState.RETRIED for record in state.records)),
            "trials_failed": float(sum(record.state.is_failure for record in state.records)),
            "seconds_training": sum(record.seconds for record in state.records),
            **{f"cache/{name}": float(value) for name, value in asdict(recalled(state.records)).items()},
        }
        note = study_note(state, front, answers, folder)
        tags = {"front": ", ".join(front.members), "mlflow.note.content": without_passwords(note)}
        tested = {
            name: {meter: reading.value for meter, reading in state.tested.get(name, {}).items()}
            for name in front.members
        }
        self._tracker.log_final(metrics, tags, front.members, tested)
        saved = [name for name in front.members if artifact_path(folder, name).is_dir()]
        if example is not None and state.card.config.tracking.models:
            members = [
                FrontModel(
                    name,
                    artifact_path(folder, name),
                    {key: reading.value for key, reading in points[name].to_readings().items()}
                    | {f"test/{key}": value for key, value in tested[name].items()},
                    str(points[name].moves),
                    tuple(state.card.config.trusted_modules),
                )
                for name in saved
            ]
            self._tracker.log_models(members, example)
