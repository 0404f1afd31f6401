"""How trials end that do not end well: put back, taken by another driver, alike many times, or the same as another."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from tiny import Half, run, study_of, sweep_of, tiny_experiment

from sweeps.errors import SweepError
from sweeps.experiment.model_work import ModelWork
from sweeps.search.execution.driver import MOST_EQUAL_FAILURES
from sweeps.search.execution.executors import InProcess
from sweeps.search.execution.work import Job, Tell, Told
from sweeps.search.space import distributions
from sweeps.search.study.attributes import OWNER
from sweeps.search.study.lease import MOST_ATTEMPTS, claim, put_back, reclaim
from sweeps.search.study.point import Ended, MeasuredModel
from sweeps.search.study.record import records

EIGHTHS = {"low": 0.0, "high": 1.0, "step": 0.125}
STEPS = {"first": {"by": EIGHTHS}, "second": {"by": EIGHTHS}}


class Ending(InProcess):
    """Ends each job in a way of its own instead of doing it."""

    def __init__(self, experiment: Any, folder: Path, how: Callable[[int], tuple[str, str]]) -> None:
        super().__init__(ModelWork(experiment, folder))
        self._how, self._number = how, -1

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._number = job.number
        super().submit(job)

    def work(self, tell: Tell) -> None:
        """End it."""
        self.close()
        state, error = self._how(self._number)
        tell(Ended(self._number, state, error, 0.1))


class Several:
    """Takes two jobs at a time and does the first of them."""

    def __init__(self, experiment: Any, folder: Path) -> None:
        self._work = ModelWork(experiment, folder)
        self._jobs: list[Job] = []
        self.taken: list[dict[str, Any]] = []

    @property
    def free(self) -> int:
        """How many more it takes."""
        return 2 - len(self._jobs)

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._jobs.append(job)
        self.taken.append(dict(job.params))

    def work(self, tell: Tell) -> None:
        """Do one."""
        tell(self._work(self._jobs.pop(0), tell))

    def close(self) -> None:
        """Drop what was taken."""
        self._jobs = []


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("failed", "OutOfMemoryError: tried to allocate {} MiB"),
        ("failed", "RuntimeError: batch {} has no labels"),
        ("infeasible", "no layer"),
    ],
)
def test_trials_that_fail_alike_but_for_numbers_stop_the_sweep(tmp_path: Path, state: str, error: str) -> None:
    experiment = tiny_experiment(space=STEPS, anchors=0)
    study = study_of(experiment)
    fail = Ending(experiment, tmp_path, lambda number: (state, error.format(20 + number)))
    with pytest.raises(SweepError, match=f"the last {MOST_EQUAL_FAILURES} trials failed the same way"):
        run(experiment, study, tmp_path, 20, fail)
    assert len(records(study)) == MOST_EQUAL_FAILURES


def test_infeasible_vectors_that_differ_in_numbers_do_not(tmp_path: Path) -> None:
    experiment = tiny_experiment(space=STEPS, anchors=0)
    refuse = Ending(experiment, tmp_path, lambda number: ("infeasible", f"no layer has {number} channels"))
    assert run(experiment, study_of(experiment), tmp_path, 8, refuse)[0].finished == 8


def test_every_trial_killing_its_process_stops_the_sweep(tmp_path: Path) -> None:
    experiment = tiny_experiment(space=STEPS, anchors=0)
    study = study_of(experiment)
    kill = Ending(experiment, tmp_path, lambda number: ("retried", "its worker died (killed by signal 9)"))
    with pytest.raises(SweepError, match="killed by signal 9"):
        run(experiment, study, tmp_path, 20, kill)
    states = [record.state for record in records(study)]
    assert states.count("failed") == MOST_EQUAL_FAILURES
    assert states.count("retried") == (MOST_ATTEMPTS - 1) * MOST_EQUAL_FAILURES


def test_vectors_of_one_model_are_not_trained_side_by_side(tmp_path: Path) -> None:
    experiment = tiny_experiment(rules=(Half(name="first"),), anchors=0)
    study = study_of(experiment)
    for by in (0.4, 0.45, 0.9):
        study.enqueue_trial({"first.by": by})
    several = Several(experiment, tmp_path)
    sweep, why, _ = run(experiment, study, tmp_path, 3, several)
    assert why is None
    assert several.taken == [{"first.by": 0.4}, {"first.by": 0.9}]
    assert sorted((record.number, record.duplicate_of) for record in sweep.records) == [(0, None), (1, 0), (2, None)]


def test_one_that_waited_for_its_like_is_trained_where_that_failed(tmp_path: Path) -> None:
    experiment = tiny_experiment(rules=(Half(name="first"),), anchors=0)
    study = study_of(experiment)
    for by in (0.4, 0.45):
        study.enqueue_trial({"first.by": by})

    class First(Several):
        def work(self, tell: Tell) -> None:
            if len(self.taken) > 1:
                super().work(tell)
            else:
                tell(Ended(self._jobs.pop(0).number, "failed", "a cosmic ray"))

    several = First(experiment, tmp_path)
    sweep, _, _ = run(experiment, study, tmp_path, 2, several)
    assert several.taken == [{"first.by": 0.4}, {"first.by": 0.45}]
    assert [record.state for record in sweep.records] == ["failed", "complete"]


def test_dying_while_a_trial_is_put_back_loses_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    for moment in ("enqueue_trial", "tell"):
        study = study_of(tiny_experiment())
        study.enqueue_trial({"first.by": 0.5, "second.by": 0.25})
        claim(study, study.ask({}))
        with monkeypatch.context() as patch:
            patch.setattr(study, moment, lambda *_, **__: (_ for _ in ()).throw(SystemExit))
            with pytest.raises(SystemExit):
                reclaim(study, alone=True)
        assert reclaim(study, alone=True) == 1
        waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
        assert [trial.system_attrs["fixed_params"] for trial in waiting] == [{"first.by": 0.5, "second.by": 0.25}]
        assert reclaim(study, alone=True) == 0


def test_a_trial_that_another_driver_has_finished_is_not_put_back() -> None:
    study = study_of(tiny_experiment())
    trial = study.ask({})
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        put_back(study, trial, "its process died")
    assert not study.get_trials(states=(optuna.trial.TrialState.WAITING,))


def test_a_trial_that_is_being_drawn_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tiny_experiment())
    study.ask({})
    born = study.get_trials()[0].datetime_start
    assert born is not None

    class Later(datetime):
        after = timedelta(seconds=40)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return born + cls.after

    monkeypatch.setattr("sweeps.search.study.lease.datetime", Later)
    assert reclaim(study, alone=False) == 0
    Later.after = timedelta(seconds=200)
    assert reclaim(study, alone=False) == 1


def test_a_driver_at_work_takes_up_what_a_dead_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.search.execution.ledger.Ledger.reclaim.__defaults__", (0.0,))
    url = f"sqlite:///{tmp_path / 'study.db'}"
    experiment = tiny_experiment(space=STEPS, storage=url, anchors=0)
    study, other = study_of(experiment, url), study_of(experiment, url)
    left = {"first.by": 0.625, "second.by": 0.375}
    taken: list[dict[str, Any]] = []

    class Watched(InProcess):
        def submit(self, job: Job) -> None:
            taken.append(dict(job.params))
            super().submit(job)

        def work(self, tell: Tell) -> None:
            if len(taken) == 2:
                other.enqueue_trial(left)
                trial = other.ask(distributions(experiment.space))
                claim(other, trial)
                owner = other.get_trials()[trial.number].user_attrs[OWNER]
                trial.set_user_attr(OWNER, {**owner, "born": "0"})
            super().work(tell)

    run(experiment, study, tmp_path, 6, Watched(ModelWork(experiment, tmp_path)))
    assert taken.index(left) == 2, "the next one, not when nothing else is left"
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_a_point_of_a_trial_that_another_driver_closed_is_not_on_the_front(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    experiment = tiny_experiment(space=STEPS, storage=url, anchors=0)
    study, other = study_of(experiment, url), study_of(experiment, url)

    class Overtaken(InProcess):
        taken = False

        def work(self, tell: Tell) -> None:
            def told(each: Told) -> None:
                tell(each)
                if isinstance(each, MeasuredModel) and not self.taken:
                    self.taken = True
                    (running,) = other.get_trials(states=(optuna.trial.TrialState.RUNNING,))
                    put_back(other, running, "its lease ended")

            super().work(told)

    sweep, _, printed = run(experiment, study, tmp_path, 3, Overtaken(ModelWork(experiment, tmp_path)))
    assert "another driver has finished it" in printed
    known = {"base", *(f"{record.number}.{point.step}" for record in sweep.records for point in record.points)}
    assert set(sweep.front.members) <= known
    sweep.saved.save_missing()
    assert set(sweep.front.members) == set(sweep_of(experiment, study, tmp_path).front.members)


def test_a_trial_that_ended_early_carries_the_limits_known_of_it(tmp_path: Path) -> None:
    experiment = tiny_experiment(space=STEPS, limits={"total": 100.0}, anchors=0)
    study = study_of(experiment)
    run(
        experiment,
        study,
        tmp_path,
        2,
        Ending(experiment, tmp_path, lambda number: ("early-stopped", f"behind {number}")),
    )
    pruned = study.get_trials(states=(optuna.trial.TrialState.PRUNED,))
    assert len(pruned) == 2
    assert all(-100 < trial.constraints["total"] < 0 for trial in pruned)
