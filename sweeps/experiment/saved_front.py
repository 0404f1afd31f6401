"""The front of a running study, with an artifact for each member."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from kmr.artifact import folder as artifact
from kmr.core import KMRError
from sweeps.errors import describe
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.front import Front
from sweeps.experiment.front_artifacts import artifact_path, drop_artifacts
from sweeps.experiment.model_work import STAGING, save_artifact
from sweeps.experiment.remade import Remade, remake
from sweeps.search.execution.observer import Observer
from sweeps.search.study.point import MeasuredModel, Point, identifier
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState


class SavedFront(Observer):
    """Observer that keeps the front, and saves an artifact for each member.

    Args:
        experiment: the experiment to search.
        folder: the study's folder; artifacts are saved below it.
        remade: readings of members that were made again as other models, by point.
    """

    def __init__(self, experiment: Experiment, folder: Path, remade: Mapping[str, Remade] | None = None) -> None:
        self._experiment, self._folder = experiment, folder
        self._measured: dict[str, Point] = {"base": Point.of(0, experiment.base)}
        self.front = Front(experiment)
        """The non-dominated points, including the base model."""
        self.unsaved: dict[str, str] = {}
        """Points that cannot be saved, and why; they are not on the front, because nobody could use them."""
        self.remade: dict[str, Remade] = dict(remade or {})
        """Readings of members that were made again as other models; the front is made of these readings."""
        shutil.rmtree(folder / STAGING, ignore_errors=True)

    def measured(self, told: MeasuredModel) -> None:
        """Add the model and its artifact to the front if it is non-dominated."""
        name = identifier(told.number, told.point.step)
        if told.problem is not None:
            self.unsaved[name] = told.problem
        elif self.front.would_join(told.point) and told.staged is not None:
            place = artifact_path(self._folder, name)
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            told.staged.rename(place)
            drop_artifacts(self._folder, self.front.add(name, told.point))
        elif told.staged is not None:
            shutil.rmtree(told.staged, ignore_errors=True)

    def took(self, record: Record) -> None:
        """Add the models of a trial to the front."""
        if record.state == TrialState.DUPLICATE:
            return
        for point in record.points:
            name = identifier(record.number, point.step)
            self._measured[name] = point
            self._add(name)

    def overtaken(self) -> None:
        """Rebuild the front from the study's records."""
        self.front = Front(self._experiment)
        for name in self._measured:
            if name != "base":
                self._add(name)

    def save_missing(self) -> None:
        """Make front members without an intact artifact again, as after a killed run, measure and save them."""
        for name in self._without_artifact():
            try:
                model, differs = remake(self._experiment, self._measured[name])
                self._replace(name, differs)
                if name in self.front.members:
                    save_artifact(self._experiment, artifact_path(self._folder, name), self._point(name), model)
            except Exception as error:  # one model that cannot be saved must not prevent the report
                self.unsaved[name] = describe(error)
                self.overtaken()
        stray = {path.name for path in artifact_path(self._folder, "").glob("*") if self._is_ours(path)}
        drop_artifacts(self._folder, sorted(stray - set(self.front.members)))
        shutil.rmtree(self._folder / STAGING, ignore_errors=True)

    def _replace(self, name: str, differs: Remade | None) -> None:
        """Let the readings of a model made again decide whether it is on the front."""
        before = self.remade.pop(name, None)
        if differs is not None:
            self.remade[name] = differs
        if before != differs:
            self.overtaken()

    def _point(self, name: str) -> Point:
        point = self._measured[name]
        return self.remade[name].instead_of(point) if name in self.remade else point

    def _add(self, name: str) -> None:
        if name not in self.unsaved and name not in self.front.members:
            self.front.add(name, self._point(name))

    def _without_artifact(self) -> Iterator[str]:
        """Yield the members to save, one by one, because the front may change in between."""
        seen: set[str] = set()
        while left := [name for name in self.front.members if name not in seen]:
            seen.add(left[0])
            if not self._is_saved(left[0]):
                yield left[0]

    def _is_saved(self, name: str) -> bool:
        folder = artifact_path(self._folder, name)
        try:
            card = artifact.read(folder)
            return card.sequence == self._measured[name].moves and card.sha256 == artifact.digest(folder)
        except (KMRError, OSError):
            return False

    def _is_ours(self, folder: Path) -> bool:
        try:
            return artifact.read(folder).extra.get("study") == self._experiment.config.name
        except KMRError:
            return False
