"""The driver: ask, hand out, tell, until the trials are done, a limit is reached or the user stops."""

import shutil
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kmr import artifact
from kmr.core import KMRError
from sweeps.digest import cause
from sweeps.errors import SweepError
from sweeps.experiment import Experiment
from sweeps.first_trials import first_trials
from sweeps.front import Front, artifact_path, drop_artifacts
from sweeps.interrupt import Interrupts
from sweeps.leases import claim, put_back, reclaim
from sweeps.mlflow_runs import run_name
from sweeps.progress import SweepProgress
from sweeps.proposals import Asker
from sweeps.records import Record, is_asked, record_of, records
from sweeps.results import identifier
from sweeps.stopping import Stopping
from sweeps.telling import abandon, finish, tell_point
from sweeps.tracking import Tracker
from sweeps.trial import Evaluation, Point, rebuild
from sweeps.work import STAGING, Ended, Job, Measured, Told, one_line, save_artifact
from sweeps.workers import Executor

MOST_EQUAL_FAILURES = 5
"""After this many trials in a row that fail alike, the cause is not in the trials."""
_GAVE_NOTHING = ("failed", "infeasible")


@dataclass
class _UnderWay:
    """A trial that was handed out: Optuna's, what makes its vector that of another, and what it has measured so far."""

    trial: optuna.Trial
    key: Hashable
    started: float
    points: list[Point] = field(default_factory=list)


class Sweep:
    """One run of a study by one process.

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
        self._objectives = [meter.name for meter in experiment.objectives]
        self._known: dict[Hashable, tuple[int, list[Point]]] = {}
        self._told: set[int] = set()
        self._under_way: dict[int, _UnderWay] = {}
        self._held: list[int] = []
        """Trials under way that wait for another one of the same model to end."""
        self._counts: dict[str, int] = {}
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.asker = asker or Asker(experiment, study)
        self.front = Front(experiment)
        self.records: list[Record] = []
        self.unsaved: dict[str, str] = {}
        """Points that measure well but could not be saved, and why: what cannot be shipped is not on a front."""
        self._stopping = Stopping(experiment.config)
        for record in records(study):
            self._remember(record)
        if not self.records and not experiment.searches_policy:
            tell_point(study, experiment, Point.of(0, experiment.base), -1)
            if experiment.config.first_trials:
                for vector in first_trials(experiment.config.first_trials, experiment.space):
                    study.enqueue_trial(vector, skip_if_exists=True)
            self.asker.enqueue_anchors()

    @property
    def finished(self) -> int:
        """Trials that count towards the total: all that ended by themselves."""
        return len(self.records) - self._counts.get("interrupted", 0)

    def run(self, trials: int, executor: Executor, progress: SweepProgress, interrupts: Interrupts) -> str | None:
        """Run until this many trials are finished in all; return why it ended earlier, if it did.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the trials in progress are closed and tried again when the study is resumed.
            SweepError: too many trials in a row failed alike; what finished is kept.
        """
        why = None
        try:
            while True:
                self._hand_out_held(executor, progress)
                while executor.free and why is None:
                    others = self._take_in_others()
                    if self.finished + len(self._under_way) + others >= trials:
                        if others and not self._under_way and reclaim(self._study, alone=False):
                            continue  # one of them has died, and its trial waits again
                        break
                    why = self._stopping.reason or self._start_one(executor, progress)
                if not self._under_way:
                    return why
                ended: list[Ended] = []
                try:
                    with interrupts.allowed():
                        executor.work(partial(self._take, ended))
                finally:  # outside of it, so that no signal leaves a trial half told
                    for each in ended:
                        try:
                            self._end(each, progress)
                        except UpdateFinishedTrialError:
                            self._under_way.pop(each.number, None)
                            self._rebuild_front()  # what it measured is no record of the study
                            progress.say(f"trial {each.number} was finished by another driver meanwhile")
                self._give_up_on_equal_failures()
        finally:
            executor.close()
            self._close_all()

    def point(self, name: str) -> Point:
        """Return a measured point by its id."""
        if name == "base":
            return Point.of(0, self._experiment.base)
        return next(p for r in self.records for p in r.points if identifier(r.number, p.step) == name)

    def save_missing_artifacts(self) -> None:
        """Make the artifacts of front members that a killed run did not get to save, or that were damaged since."""
        for name in self._front_without_artifact():
            point = self.point(name)
            try:
                model = rebuild(self._experiment, point.moves)
                save_artifact(self._experiment, artifact_path(self._folder, name), point, model)
            except Exception as error:  # one model that cannot be saved must not cost the report of all others
                self.unsaved[name] = f"{type(error).__name__}: {one_line(error)}"
                self._rebuild_front()
        stray = {path.name for path in artifact_path(self._folder, "").glob("*") if self._is_ours(path)}
        drop_artifacts(self._folder, sorted(stray - set(self.front.members)))
        shutil.rmtree(self._folder / STAGING, ignore_errors=True)

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

    def _rebuild_front(self) -> None:
        self.front = Front(self._experiment)
        for record in self.records:
            self._add_to_front(record)

    def _add_to_front(self, record: Record) -> None:
        for point in record.points if record.served_from is None else ():
            name = identifier(record.number, point.step)
            if name not in self.unsaved and name not in self.front.members:
                self.front.add(name, point)

    def _start_one(self, executor: Executor, progress: SweepProgress) -> str | None:
        """Hand out one more trial, or serve it from a known one; return why there is none, if there is none."""
        started = time.perf_counter()
        trial = self.asker.ask()
        if trial is None:
            return self.asker.exhausted
        key = self.asker.key(trial.params)
        try:
            number = claim(self._study, trial)
        except UpdateFinishedTrialError:  # sqlite lets two drivers draw one enqueued trial, and the other was faster
            return None
        twin = any(other.key == key for other in self._under_way.values())
        self._under_way[number] = _UnderWay(trial, key, started)
        if twin:
            self._held.append(number)
        else:
            self._hand_out(number, executor, progress)
        return None

    def _hand_out(self, number: int, executor: Executor, progress: SweepProgress) -> None:
        """Have a trial trained, or serve it from a known one."""
        under_way = self._under_way[number]
        known = self._known.get(under_way.key)
        if known is None:
            executor.submit(Job(number, dict(under_way.trial.params), self.front.values))
            return
        served_from, points = known
        evaluation = Evaluation([Point.of(0, self._experiment.base), *points], [], "success", 0.0, 0.0)
        finish(self._study, under_way.trial, self._experiment, evaluation, served_from)
        self._close(number, progress)

    def _hand_out_held(self, executor: Executor, progress: SweepProgress) -> None:
        """Hand out what waited for a trial of the same model that has ended."""
        at_work = {other.key for number, other in self._under_way.items() if number not in self._held}
        for number in tuple(self._held):
            key = self._under_way[number].key
            if executor.free and key not in at_work:
                at_work.add(key)
                self._held.remove(number)
                self._hand_out(number, executor, progress)

    def _take(self, ended: list[Ended], told: Told) -> None:
        if isinstance(told, Ended):
            ended.append(told)
            return
        key = self.asker.key_of(told.point.moves)
        self._under_way[told.number].points.append(replace(told.point, key=str(key)))
        self._offer(told)

    def _end(self, ended: Ended, progress: SweepProgress) -> None:
        match ended:
            case Ended(number, "lost", _, error):
                under_way = self._under_way.pop(number)
                again = put_back(self._study, under_way.trial, error or "", under_way.points, ended.seconds)
                progress.say(f"trial {number} was lost, {error}; " + ("it is tried again" if again else "given up"))
                self._remember(self._record(under_way.trial))
            case Ended(number, state, evaluation, error):
                under_way = self._under_way[number]
                if evaluation is not None:
                    evaluation = replace(evaluation, points=[evaluation.points[0], *under_way.points])
                    finish(self._study, under_way.trial, self._experiment, evaluation, None, ended.recalled)
                else:
                    told = (state, error or "", under_way.points, ended.seconds, ended.recalled)
                    known = self.asker.violations(under_way.trial.params)
                    abandon(self._study, under_way.trial, *told, violations=known)
                record = self._close(number, progress)
                if record.state in _GAVE_NOTHING:
                    progress.say(f"trial {record.number} {record.state}: {record.error}")

    def _close(self, number: int, progress: SweepProgress) -> Record:
        under_way = self._under_way.pop(number)
        record = self._record(under_way.trial)
        self._tell_intermediates(record)
        self._remember(record)
        failed = sum(self._counts.get(state, 0) for state in _GAVE_NOTHING)
        progress.finished(self.front.hypervolume, len(self.front.members), self._counts.get("served", 0), failed)
        if self._tracker is not None:
            self._tracker.log_trial(record, self.front.hypervolume, run_name(record), self.front.members)
        return record

    def _close_all(self) -> None:
        """Close what was under way when the run was stopped, and put it first in the next."""
        self._held.clear()
        for number in sorted(self._under_way):
            under_way = self._under_way.pop(number)
            seconds = time.perf_counter() - under_way.started
            why = "stopped before it was finished"
            try:
                put_back(self._study, under_way.trial, why, under_way.points, seconds, count=False)
            except UpdateFinishedTrialError:
                continue
            self._remember(self._record(under_way.trial))

    def _record(self, trial: optuna.Trial) -> Record:
        return record_of(self._study.get_trials(deepcopy=False)[trial.number])

    def _offer(self, told: Measured) -> None:
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

    def _tell_intermediates(self, record: Record) -> None:
        if self._experiment.searches_policy or record.served_from is not None:
            return
        for point in record.points[:-1] if record.state == "complete" else record.points:
            if self.asker.key_of(point.moves) not in self._known:
                tell_point(self._study, self._experiment, point, record.number)

    def _remember(self, record: Record) -> None:
        self.records.append(record)
        self._told.add(record.optuna_number)
        for kind in ("served" if record.served_from is not None else "", record.state):
            self._counts[kind] = self._counts.get(kind, 0) + 1
        if record.served_from is None:
            self._add_to_front(record)
            if not self._experiment.searches_policy:
                for count, point in enumerate(record.points, start=1):
                    self.asker.remember(point)
                    self._known.setdefault(self.asker.key_of(point.moves), (record.number, list(record.points[:count])))
            elif record.state == "complete":
                self._known.setdefault(self.asker.key(record.params), (record.number, list(record.points)))
        self._stopping.finished(record, self.front.hypervolume)

    def _take_in_others(self) -> int:
        """Learn what other drivers of the same study have finished since; return how many trials they are at."""
        if self._experiment.config.storage is None:
            return 0
        mine = {under_way.trial.number for under_way in self._under_way.values()}
        at_work = 0
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in self._told and is_asked(trial):
                self._remember(record_of(trial))
            at_work += trial.state == TrialState.RUNNING and trial.number not in mine
        return at_work

    def _give_up_on_equal_failures(self) -> None:
        last = [record for record in self.records if record.state != "interrupted"][-MOST_EQUAL_FAILURES:]
        failed_alike = len(set(map(_kind, last))) == 1 and last[-1].state in _GAVE_NOTHING
        if len(last) == MOST_EQUAL_FAILURES and failed_alike:
            why = f"{MOST_EQUAL_FAILURES} trials in a row ended alike, so the sweep stops: {last[-1].error}"
            raise SweepError(why)


def _kind(record: Record) -> tuple[str, str]:
    """Return what is equal for trials that ended alike; infeasible vectors often differ in numbers alone."""
    error = record.error or ""
    return record.state, cause(error) if record.state == "failed" else error
