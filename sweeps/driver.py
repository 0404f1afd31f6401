"""The driver: ask, evaluate, tell, until the trials are done or the user stops."""

import time
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from torch import nn

from kmr import artifact
from kmr.core import KMRError, NotApplicable
from sweeps.errors import SweepError
from sweeps.experiment import Experiment
from sweeps.first_trials import first_trials
from sweeps.front import Front, artifact_path, drop_artifacts
from sweeps.interrupt import Interrupts, Stopped
from sweeps.problem import Problem
from sweeps.progress import SweepProgress
from sweeps.propose import Screened
from sweeps.results import identifier
from sweeps.sampling import anchors, seed_after
from sweeps.space import distributions, to_sequence
from sweeps.study import Record, abandon, claim, finish, record_of, records, tell_point
from sweeps.tracking import Tracker
from sweeps.trial import Evaluation, Point, evaluate, rebuild

MOST_EQUAL_FAILURES = 5
"""After this many trials in a row that fail alike, the cause is not in the trials."""


class Sweep:
    """One run of a study by one process.

    Args:
        experiment: what is searched.
        study: where it is kept.
        folder: of the study; front members are saved under it as soon as they are measured.
        tracker: writes to MLflow; None writes nothing.
    """

    def __init__(self, experiment: Experiment, study: optuna.Study, folder: Path, tracker: Tracker | None) -> None:
        self._experiment, self._study, self._folder, self._tracker = experiment, study, folder, tracker
        self._distributions = distributions(experiment.space)
        self._known: dict[Hashable, tuple[int, list[Point]]] = {}
        self.front = Front(experiment)
        self.records: list[Record] = []
        self.unsaved: dict[str, str] = {}
        """Points that measure well but could not be saved, and why: what cannot be shipped is not on a front."""
        for record in records(study):
            self._remember(record)
        self._rebuild_front()
        if not self.records and not experiment.searches_policy:
            tell_point(study, experiment, Point.of(0, experiment.base), -1)
            if experiment.config.first_trials:
                for vector in first_trials(experiment.config.first_trials, experiment.space):
                    study.enqueue_trial(vector, skip_if_exists=True)
            if experiment.config.anchors and not _is_sequence(study.sampler):
                _, *alone = anchors(experiment.space, levels=experiment.config.anchors) or [{}]
                for vector in alone:
                    study.enqueue_trial(vector, skip_if_exists=True)
        if not experiment.searches_policy and not _is_sequence(study.sampler):
            study.sampler = self._without_duplicates(study.sampler)

    @property
    def finished(self) -> int:
        """Trials that count towards the total: all that ended by themselves."""
        return sum(record.state != "interrupted" for record in self.records)

    def run(self, trials: int, progress: SweepProgress, interrupts: Interrupts) -> None:
        """Run until this many trials are finished in all.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the trial in progress is closed and tried again when the study is resumed.
            SweepError: too many trials in a row failed alike; what finished is kept.
        """
        while self.finished < trials and not self._exhausted():
            record = self._one_trial(interrupts)
            if record.state in ("failed", "infeasible"):
                progress.say(f"trial {record.number} {record.state}: {record.error}")
            failed = sum(r.state in ("failed", "infeasible") for r in self.records)
            served = sum(r.served_from is not None for r in self.records)
            progress.finished(self.front.hypervolume, len(self.front.members), served, failed)
            if self._tracker is not None:
                self._tracker.log_trial(record, self.front.hypervolume, self._name(record))
            self._give_up_on_equal_failures()

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
                self._save(name, point, rebuild(self._experiment, point.moves))
            except Exception as error:  # one model that cannot be saved must not cost the report of all others
                self.unsaved[name] = f"{type(error).__name__}: {_one_line(error)}"
                self._rebuild_front()
        stray = {path.name for path in artifact_path(self._folder, "").glob("*") if self._is_ours(path)}
        drop_artifacts(self._folder, sorted(stray - set(self.front.members)))

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
            for point in record.points if record.served_from is None else ():
                name = identifier(record.number, point.step)
                if name not in self.unsaved:
                    self.front.add(name, point)

    def _one_trial(self, interrupts: Interrupts) -> Record:
        started = time.perf_counter()
        trial = self._study.ask(self._distributions)
        claim(trial)
        number = len(self.records)
        measured: list[Point] = []

        def on_point(point: Point, model: nn.Module) -> None:
            measured.append(point)
            self._offer(identifier(number, point.step), point, model)

        def close(state: str, error: str) -> None:
            abandon(self._study, trial, state, error, measured, time.perf_counter() - started)

        try:
            with interrupts.allowed():
                evaluation, served_from = self._evaluation(trial.params, on_point)
            finish(self._study, trial, self._experiment, evaluation, served_from)
        except Stopped:
            close("interrupted", "stopped before it was finished")
            self._study.enqueue_trial(trial.params)
            self._remember(record_of(self._study.get_trials(deepcopy=False)[trial.number], number))
            raise
        except NotApplicable as error:
            close("infeasible", str(error))
        except Exception as error:  # a user's code or a rule may raise anything, and no other trial is to blame
            close("failed", f"{type(error).__name__}: {_one_line(error)}")
        record = record_of(self._study.get_trials(deepcopy=False)[trial.number], number)
        self._tell_intermediates(record)
        self._remember(record)
        return record

    def _evaluation(self, params: Mapping[str, Any], on_point: Any) -> tuple[Evaluation, int | None]:
        known = self._known.get(self._key(params))
        if known is None:
            return evaluate(self._experiment, params, on_point), None
        number, points = known
        return Evaluation([Point.of(0, self._experiment.base), *points], [], "success", 0.0, 0.0), number

    def _offer(self, name: str, point: Point, model: nn.Module) -> None:
        if not self.front.would_join(point):
            return
        try:
            self._save(name, point, model)
        except KMRError as error:
            self.unsaved[name] = str(error)
            return
        drop_artifacts(self._folder, self.front.add(name, point))

    def _save(self, name: str, point: Point, model: nn.Module) -> None:
        artifact.save(
            artifact_path(self._folder, name),
            model,
            base=self._experiment.model,
            builder=self._experiment.builder,
            sequence=point.moves,
            readings=point.to_readings(),
            extra={"study": self._experiment.config.name, "point": name},
        )

    def _tell_intermediates(self, record: Record) -> None:
        if self._experiment.searches_policy or record.served_from is not None:
            return
        complete = record.state == "complete"
        for point in record.points[:-1] if complete else record.points:
            if point.moves not in self._known:
                tell_point(self._study, self._experiment, point, record.number)

    def _remember(self, record: Record) -> None:
        self.records.append(record)
        if record.served_from is not None:
            return
        if self._experiment.searches_policy:
            if record.state == "complete":
                self._known.setdefault(self._key(record.params), (record.number, list(record.points)))
            return
        for count, point in enumerate(record.points, start=1):
            self._known.setdefault(point.moves, (record.number, list(record.points[:count])))

    def _key(self, params: Mapping[str, Any]) -> Hashable:
        if self._experiment.searches_policy:
            return tuple(sorted(params.items()))
        return to_sequence(self._experiment.instantiation, params)

    def _name(self, record: Record) -> str:
        settings = ", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                             for name, value in record.params.items())  # fmt: skip
        return f"{record.number}: {settings}"[:200]

    def _without_duplicates(self, sampler: optuna.samplers.BaseSampler) -> Screened:
        """Wrap a sampler so that it proposes no vector that leads to a model already made."""
        objectives = {meter.name: meter.direction for meter in self._experiment.objectives}
        problem = Problem(self._experiment.space, objectives, canonical=self._key)
        return Screened(sampler, problem, seed_after(self._experiment.config.seed, len(self.records)))

    def _exhausted(self) -> bool:
        sampler = self._study.sampler
        if isinstance(sampler, Screened):
            return sampler.exhausted
        return isinstance(sampler, optuna.samplers.GridSampler) and sampler.is_exhausted(self._study)

    def _give_up_on_equal_failures(self) -> None:
        last = self.records[-MOST_EQUAL_FAILURES:]
        errors = {record.error for record in last if record.state in ("failed", "infeasible")}
        alike = len(errors) == 1 and all(record.state in ("failed", "infeasible") for record in last)
        if len(last) == MOST_EQUAL_FAILURES and alike:
            raise SweepError(f"{MOST_EQUAL_FAILURES} trials in a row ended alike, so the sweep stops: {errors.pop()}")


def _is_sequence(sampler: optuna.samplers.BaseSampler) -> bool:
    """Tell whether a sampler goes through a fixed sequence, in which nothing else has a place."""
    return isinstance(sampler, optuna.samplers.GridSampler | optuna.samplers.QMCSampler)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 400 else text[:397] + "…"
