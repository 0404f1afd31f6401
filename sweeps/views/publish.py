"""Publication of a study: the results table and the report, in the folder and in a tracker."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import analysis.report
import analysis.table
from sweeps.experiment.assessment.degradation import with_profiles
from sweeps.experiment.assessment.layers import with_layers
from sweeps.experiment.front import Front
from sweeps.views import results_table as results
from sweeps.views.card import without_passwords
from sweeps.views.state import State, final_front


@dataclass(frozen=True)
class Published:
    """The report's page, messages for the user, the results table, and the ids on the front."""

    report: Path
    messages: tuple[str, ...]
    table: analysis.table.StudyTable
    front: tuple[str, ...]


class ResultsTracker(Protocol):
    """A tracker that receives the results of a study (`sweeps.views.mlflow.results_tracking` is MLflow's)."""

    @property
    def run_ids(self) -> Mapping[int, str]:
        """The id of each trial's run, after all pending writes."""

    @property
    def place(self) -> Mapping[str, str] | None:
        """The addresses of the runs, by name."""

    def results(self, state: State, front: Front, table: analysis.table.StudyTable, example: Any) -> None:
        """Write the final figures, the front and its models."""

    def files(self, folder: str, *paths: Path) -> None:
        """Copy files into a folder of the study's artifacts."""


def publish(
    state: State, folder: Path, tracker: ResultsTracker | None, *, images: bool = False, example: Any = None
) -> Published:
    """Write the table and the report into the folder, and update the tracker; it is safe to repeat.

    Args:
        state: the study's state.
        folder: the study's folder.
        tracker: a started tracker; None writes to the folder only.
        images: also draw the report's figures.
        example: a batch of inputs, with which the tracker logs front members as models; None logs no models.
    """
    front = final_front(state)
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
        place=without_passwords(tracker.place if tracker else None),
    )
    frame = with_layers(results.with_noise(frame, meta, state.noise), state.layers)
    table = analysis.table.StudyTable(with_profiles(frame, state.profiles), meta, folder)
    analysis.table.save(folder, table.frame, meta)
    if tracker is not None:
        tracker.results(state, front, table, example)
    report = analysis.report.write(folder, images=images)
    if tracker is not None:
        tracker.files("report", *dict.fromkeys((report.html, *report.files, folder / analysis.table.RESULTS)))
        tracker.files("", folder / analysis.table.META)
    return Published(report.html, report.messages, table, front.members)
