"""A sweep: the search over an experiment's models, whose front is saved as artifacts while it goes on."""

import shutil
import uuid
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import optuna

from kmr.artifact import folder as artifact
from kmr.core import KMRError
from sweeps.errors import describe
from sweeps.experiment.evaluation import rebuild
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.experiment_proposer import Asker
from sweeps.experiment.fidelity import halving_of
from sweeps.experiment.front import Front
from sweeps.experiment.front_artifacts import artifact_path, drop_artifacts
from sweeps.experiment.knob_space import to_params
from sweeps.experiment.model_work import STAGING, save_artifact
from sweeps.first_trials import first_trials
from sweeps.search.execution.driver import drive
from sweeps.search.execution.executors import Executor
from sweeps.search.execution.halving import EarlyStopping
from sweeps.search.execution.interrupts import Interrupts
from sweeps.search.execution.ledger import Ledger
from sweeps.search.execution.observer import Observer
from sweeps.search.execution.stopping import Stopping
from sweeps.search.study.point import Measured, Point, identifier
from sweeps.search.study.record import Record, add_intermediate, begun_by
from sweeps.search.study.trial_state import TrialState
from sweeps.terminal.progress import SweepProgress
from sweeps.views.mlflow.runs import run_name
from sweeps.views.mlflow.tracker import Tracker


class Sweep(Observer):
    """One run of a study by one process.

    Intermediate models are told to the study as finished trials of their own, marked with the trial they come from.

    Args:
        experiment: what is searched.
        study: where it is kept.
        folder: of the study; front members are saved under it as soon as they are measured.
        tracker: writes to MLflow; None writes nothing.
        asker: proposes the trials; one with all it can do by default.
    """

    def __init__(
        self,
        experiment: Experiment,
        study: optuna.Study,
        folder: Path,
        tracker: Tracker | None,
        asker: Asker | None = None,
    ) -> None:
        self._experiment, self._study, self._folder, self._tracker = experiment, study, folder, tracker
        self._progress: SweepProgress | None = None
        self._hypervolumes: list[float] = []
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.asker = asker or Asker(experiment, study)
        self.front = Front(experiment)
        """Every point that no other beats, the base model included."""
        self.unsaved: dict[str, str] = {}
        """Points that measure well but could not be saved, and why: what cannot be shipped is not on a front."""
        self._stopping = Stopping(experiment.config.stop, self._gain)
        halving, problem = halving_of(experiment), self.asker.problem
        self._ledger = Ledger(
            study, problem, self.asker.proposer, self,
            shared=experiment.config.storage is not None, counts_duplicates=True,
            early_stopping=None if halving is None else EarlyStopping(study, halving, problem.objectives),
        )  # fmt: skip
        if not self.records and not experiment.searches_policy:
            self._begin()

    @property
    def records(self) -> Sequence[Record]:
        """The finished trials."""
        return self._ledger.records

    @property
    def finished(self) -> int:
        """Trials that count towards the total: all that ended by themselves."""
        return self._ledger.finished

    def run(self, trials: int, executor: Executor, progress: SweepProgress, interrupts: Interrupts) -> str | None:
        """Run until this many trials are finished in all, as `sweeps.search.execution.driver.drive` does."""
        self._progress = progress
        return drive(
            self._ledger, trials, executor, self._stopping, interrupts, progress.say, lambda: self.asker.exhausted
        )

    def point(self, name: str) -> Point:
        """Return a measured point by its id."""
        if name == "base":
            return self.base
        return next(p for r in self.records for p in r.points if identifier(r.number, p.step) == name)

    def save_missing_artifacts(self) -> None:
        """Make the artifacts of front members that a killed run did not get to save, or that were damaged since."""
        for name in self._front_without_artifact():
            point = self.point(name)
            try:
                model = rebuild(self._experiment, point.moves)
                save_artifact(self._experiment, artifact_path(self._folder, name), point, model)
            except Exception as error:  # one model that cannot be saved must not cost the report of all others
                self.unsaved[name] = describe(error)
                self.overtaken()
        stray = {path.name for path in artifact_path(self._folder, "").glob("*") if self._is_ours(path)}
        drop_artifacts(self._folder, sorted(stray - set(self.front.members)))
        shutil.rmtree(self._folder / STAGING, ignore_errors=True)

    def kept(self, point: Point) -> Point:
        """Note what makes the model that of another."""
        return replace(point, key=str(self.asker.key_of(point.moves)))

    def measured(self, told: Measured) -> None:
        """Take the model on the front where it belongs there, with its artifact."""
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

    def known(self, record: Record) -> Iterable[tuple[Hashable, Sequence[Point]]]:
        """Yield every model on the way; the parameters of a policy stand for the models it leads to as a whole."""
        if self._experiment.searches_policy:
            if record.state == TrialState.COMPLETE:
                yield self.asker.key(record.params), record.points
            return
        for count, point in enumerate(record.points, start=1):
            self.asker.remember(point)
            yield self.asker.key_of(point.moves), record.points[:count]

    def took(self, record: Record) -> None:
        """Take what a trial measured on the front."""
        self._add_to_front(record)
        self._stopping.finished(record)
        if record.state != TrialState.RETRIED:
            self._hypervolumes.append(self.front.hypervolume)

    def closed(self, record: Record) -> None:
        """Tell the sampler of the models on the way, and the user and MLflow of the trial."""
        self._tell_intermediates(record)
        members = self.front.members
        if self._progress is not None:
            self._progress.finished(self.front.hypervolume, len(members), self._ledger.counts)
        if self._tracker is not None:
            self._tracker.log_trial(record, self.front.hypervolume, run_name(record), members)

    def overtaken(self) -> None:
        """Build the front again of what the study knows."""
        self.front = Front(self._experiment)
        for record in self.records:
            self._add_to_front(record)

    @property
    def front_values(self) -> tuple[tuple[float, ...], ...]:
        """The objectives' values of the front."""
        return self.front.values

    @property
    def base(self) -> Point:
        """The base model."""
        return Point.of(0, self._experiment.base)

    def _begin(self) -> None:
        """Tell the base model, and say what is tried first; of drivers that begin at once, one does."""
        if not begun_by(self._study):
            mine = uuid.uuid4().hex
            self._tell_point(self.base, -1, mine)
            if begun_by(self._study)[:1] not in ([], [mine]):
                return
        if self._experiment.config.first_trials:
            for vector in first_trials(self._experiment.config.first_trials, self._experiment.space):
                self._study.enqueue_trial(vector, skip_if_exists=True)
        self.asker.enqueue_anchors()

    def _gain(self, window: int) -> float:
        return self._hypervolumes[-1] - self._hypervolumes[-1 - window]

    def _front_without_artifact(self) -> Iterator[str]:
        """Yield the members to save, one after the other, while the front may change."""
        seen: set[str] = set()
        while left := [name for name in self.front.members if name not in seen]:
            seen.add(left[0])
            if not self._is_saved(left[0]):
                yield left[0]

    def _is_saved(self, name: str) -> bool:
        folder = artifact_path(self._folder, name)
        try:
            card = artifact.read(folder)
            return card.sequence == self.point(name).moves and card.sha256 == artifact.digest(folder)
        except (KMRError, OSError):
            return False

    def _is_ours(self, folder: Path) -> bool:
        try:
            return artifact.read(folder).extra.get("study") == self._experiment.config.name
        except KMRError:
            return False

    def _add_to_front(self, record: Record) -> None:
        for point in record.points if record.state != TrialState.DUPLICATE else ():
            name = identifier(record.number, point.step)
            if name not in self.unsaved and name not in self.front.members:
                self.front.add(name, point)

    def _tell_intermediates(self, record: Record) -> None:
        if self._experiment.searches_policy or record.state == TrialState.DUPLICATE:
            return
        for point in record.points[:-1] if record.state == TrialState.COMPLETE else record.points:
            if self._ledger.first(self.asker.key_of(point.moves)) == record.number:
                self._tell_point(point, record.number)

    def _tell_point(self, point: Point, of_trial: int, driver: str | None = None) -> None:
        """Tell an intermediate model to the study as a finished trial, where a knob vector stands for it."""
        params = to_params(self._experiment.instantiation, self._experiment.space, point.moves)
        if params is not None:
            add_intermediate(self._study, self.asker.problem, point, params, of_trial, driver)
