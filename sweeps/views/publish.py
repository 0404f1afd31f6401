"""What is derived from a study's storage: the table, the report, the MLflow runs. Safe to repeat at any time."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import analysis.report
import analysis.table
from analysis.selection.standing_answers import recommend
from sweeps.experiment.assessment.degradation import with_profiles
from sweeps.experiment.assessment.layers import with_layers
from sweeps.experiment.front import Front
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.search.study.record import recalled
from sweeps.search.study.trial_state import TrialState
from sweeps.views import results_table as results
from sweeps.views.card import without_passwords
from sweeps.views.mlflow.models import FrontModel
from sweeps.views.mlflow.study_note import study_note
from sweeps.views.mlflow.tracker import Tracker
from sweeps.views.state import State, final_front


@dataclass(frozen=True)
class Published:
    """The report's page, what there is to say, the table everything was made from, and the ids on its front."""

    report: Path
    messages: tuple[str, ...]
    table: analysis.table.StudyTable
    front: tuple[str, ...]


def publish(
    state: State, folder: Path, tracker: Tracker | None, *, images: bool = False, example: Any = None
) -> Published:
    """Write the table and the report into the folder, and bring MLflow up to date.

    Args:
        state: of the study.
        folder: of the study.
        tracker: started; None writes nothing to MLflow.
        images: also draw the report's pictures.
        example: a batch of inputs; front members are logged as models of MLflow where there is one.
    """
    front = final_front(state)
    if tracker is not None:
        tracker.flush()
    place = tracker.place if tracker is not None else None
    shown = {**asdict(place), "ui": place.ui, "link": place.link, "study_link": place.study_link} if place else None
    on_front = {name: state.tested.get(name, {}) for name in front.members}
    frame = results.frame(
        state.card, state.records, on_front, tracker.run_ids if tracker else {}, folder, state.unsaved
    )
    meta = results.meta(
        state.card,
        state.records,
        state.tested.get("base", {}),
        state.untrained,
        state.rejected,
        created=state.created,
        place=without_passwords(shown),
    )
    frame = with_layers(results.with_noise(frame, meta, state.noise), state.layers)
    table = analysis.table.StudyTable(with_profiles(frame, state.profiles), meta, folder)
    analysis.table.save(folder, table.frame, meta)
    if tracker is not None:
        _track(tracker, state, front, table, example)
    report = analysis.report.write(folder, images=images)
    if tracker is not None:
        for path in dict.fromkeys((report.html, *report.files, folder / analysis.table.RESULTS)):
            tracker.log_files({"report": path})
        tracker.log_files({"": folder / analysis.table.META})
    return Published(report.html, report.messages, table, front.members)


def _track(tracker: Tracker, state: State, front: Front, table: analysis.table.StudyTable, example: Any) -> None:
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
        name: {meter: reading.value for meter, reading in state.tested.get(name, {}).items()} for name in front.members
    }
    tracker.log_final(metrics, tags, front.members, tested)
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
        tracker.log_models(members, example)
