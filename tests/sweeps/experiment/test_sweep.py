"""The driver with executors that lose trials, with a second driver beside it, and with limits known before training."""

import threading
import time
from pathlib import Path

import optuna
import pytest
from tiny import Half, run, study_of, sweep_of, tiny_experiment

from sweeps.experiment.config import Stop
from sweeps.experiment.intermediate_trials import IntermediateTrials
from sweeps.experiment.model_work import ModelWork
from sweeps.search.execution.executors import InProcess
from sweeps.search.execution.interrupts import Interrupts, Stopped
from sweeps.search.execution.work import Job, Tell
from sweeps.search.study.attributes import OWNER
from sweeps.search.study.lease import MOST_ATTEMPTS, claim, reclaim, renew
from sweeps.search.study.point import Ended, MeasuredModel
from sweeps.search.study.proposal import count_untrained
from sweeps.search.study.record import records

EIGHTHS = {"low": 0.0, "high": 1.0, "step": 0.125}
STEPS = {"first": {"by": EIGHTHS}, "second": {"by": EIGHTHS}}


class Losing:
    """Does jobs in this process, but loses some of them."""

    def __init__(self, experiment, folder: Path, lose) -> None:
        self._inner, self._lose, self._job = InProcess(ModelWork(experiment, folder)), lose, None

    @property
    def free(self) -> int:
        return self._inner.free

    def submit(self, job: Job) -> None:
        self._job = job
        self._inner.submit(job)

    def work(self, tell: Tell) -> None:
        if self._lose(self._job):
            self._inner.close()
            tell(Ended(self._job.number, "retried", "its worker died (killed by signal 9)", 0.1))
        else:
            self._inner.work(tell)

    def close(self) -> None:
        self._inner.close()


def test_trials_to_do_are_a_total(tmp_path) -> None:
    experiment = tiny_experiment(anchors=0)
    study = study_of(experiment)
    assert run(experiment, study, tmp_path, 5)[0].finished == 5
    again, _, _ = run(experiment, study, tmp_path, 8)
    assert again.finished == 8
    assert [record.number for record in again.records] == list(range(8))


def test_what_breaks_a_limit_before_training_is_told_and_never_trained(tmp_path) -> None:
    experiment = tiny_experiment(space=STEPS)
    limit = 0.5 * experiment.base.costs["total"].value
    experiment = tiny_experiment(space=STEPS, limits={"total": limit}, anchors=0)
    study = study_of(experiment)
    sweep, why, _ = run(experiment, study, tmp_path, 6)
    assert why is None
    assert all(record.final.readings["total"][0] <= limit for record in sweep.records)
    assert count_untrained(study)["infeasible"] > 0
    pruned = [t for t in study.get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.PRUNED]
    assert pruned
    assert all(t.constraints["total"] > 0 for t in pruned)


def test_when_nothing_keeps_the_limits_the_sweep_names_the_smallest_found(tmp_path) -> None:
    experiment = tiny_experiment(space=STEPS, limits={"total": 0.01}, anchors=0)
    sweep, why, _ = run(experiment, study_of(experiment), tmp_path, 6)
    assert sweep.records == []
    assert "total 0." in str(why)
    assert "(limit 0.01)" in str(why)


def test_vectors_of_one_model_are_trained_once(tmp_path) -> None:
    made = []

    class Counted(Half):
        def apply(self, model, knob, value):
            made.append(value)
            return super().apply(model, knob, value)

    experiment = tiny_experiment(rules=(Counted(name="first"),), anchors=0)
    sweep, why, _ = run(experiment, study_of(experiment), tmp_path, 10)
    shares = {record.final.readings["total"][0] / experiment.base.costs["total"].value for record in sweep.records}
    assert sorted(shares) == pytest.approx([0.5, 0.75])
    assert "found no new vector" in str(why), "two models are all there are"


def test_a_lost_trial_is_tried_again_and_given_up_in_the_end(tmp_path) -> None:
    experiment = tiny_experiment(anchors=0)
    study = study_of(experiment)
    study.enqueue_trial({"first.by": 0.5, "second.by": 0.5})
    lose = Losing(experiment, tmp_path, lambda job: job.params == {"first.by": 0.5, "second.by": 0.5})
    sweep, _, printed = run(experiment, study, tmp_path, 3, lose)
    lost = [record for record in sweep.records if record.params == {"first.by": 0.5, "second.by": 0.5}]
    assert [record.state for record in lost] == ["retried"] * (MOST_ATTEMPTS - 1) + ["failed"]
    assert "given up after 3 attempts" in str(lost[-1].error)
    assert sweep.finished == 3
    assert printed.count("its worker died (killed by signal 9)") == MOST_ATTEMPTS
    assert printed.count("; retrying") == MOST_ATTEMPTS - 1


def test_an_enqueued_vector_outlives_a_process_that_died_while_it_was_drawn(tmp_path) -> None:
    experiment = tiny_experiment(anchors=0)
    study = study_of(experiment)
    study.enqueue_trial({"first.by": 0.5, "second.by": 0.25})
    study.ask({})  # nothing is drawn yet
    assert reclaim(study, alone=True) == 1
    sweep, _, _ = run(experiment, study, tmp_path, 1)
    assert sweep.records[-1].params == {"first.by": 0.5, "second.by": 0.25}


def test_one_loss_changes_no_result(tmp_path) -> None:
    experiment = tiny_experiment(space=STEPS, anchors=0)
    vectors = [{"first.by": a, "second.by": b} for a, b in ((0.5, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 1.0))]
    fronts = []
    for name, lose in (("calm", lambda job: False), ("lossy", iter_once())):
        study = study_of(experiment)
        for vector in vectors:
            study.enqueue_trial(vector)
        sweep, _, _ = run(experiment, study, tmp_path / name, 4, Losing(experiment, tmp_path / name, lose))
        fronts.append(sorted(sweep.front.values))
        done = [record for record in sweep.records if record.state.has_result]
        assert sorted(str(dict(record.params)) for record in done) == sorted(map(str, vectors))
    assert fronts[0] == fronts[1]


def iter_once():
    jobs = iter([True])
    return lambda job: next(jobs, False)


def test_a_stop_in_the_middle_keeps_what_was_measured_and_tries_again(tmp_path) -> None:
    class Stops(InProcess):
        def work(self, tell: Tell) -> None:
            def first(told) -> None:
                tell(told)
                if isinstance(told, MeasuredModel):
                    raise Stopped(130)

            super().work(first)

    experiment = tiny_experiment(anchors=0)
    study = study_of(experiment)
    study.enqueue_trial({"first.by": 0.5, "second.by": 0.5})
    with pytest.raises(Stopped):
        run(experiment, study, tmp_path, 3, Stops(ModelWork(experiment, tmp_path)))
    (record,) = records(study)
    assert (record.state, len(record.points)) == ("retried", 1)
    sweep, _, _ = run(experiment, study, tmp_path, 1)
    assert sweep.records[-1].params == {"first.by": 0.5, "second.by": 0.5}
    assert sweep.finished == 1


def test_two_drivers_of_one_study_share_its_trials(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    experiment = tiny_experiment(storage=url, anchors=0)
    one, two = study_of(experiment, url), study_of(experiment, url)
    other = sweep_of(experiment, two, tmp_path / "two")
    first, _, _ = run(experiment, one, tmp_path / "one", 4)
    other.run(6, InProcess(ModelWork(experiment, tmp_path / "two")), Interrupts())
    assert first.finished == 4
    assert other.finished == 6, "four of the first, two of its own"
    numbers = [record.number for record in records(two)]
    assert numbers == sorted(set(numbers))
    assert sorted(other.front.values) == sorted(sweep_of(experiment, one, tmp_path / "three").front.values)


def test_of_drivers_that_begin_at_once_one_says_what_is_tried_first(tmp_path, monkeypatch) -> None:
    experiment = tiny_experiment(space=STEPS, anchors=2)
    study = study_of(experiment)

    def told(self, *given) -> None:
        monkeypatch.undo()
        sweep_of(experiment, study, tmp_path)  # the rival is through before this one has told its base model
        self._tell(*given)

    monkeypatch.setattr(IntermediateTrials, "_tell", told)

    sweep_of(experiment, study, tmp_path)
    vectors = [str(trial.system_attrs["fixed_params"]) for trial in study.get_trials() if trial.state.name == "WAITING"]
    assert len(vectors) == len(set(vectors)) > 0
    bases = len(study.get_trials()) - len(vectors)
    assert bases == 2
    sweep_of(experiment, study, tmp_path)
    assert len(study.get_trials()) == len(vectors) + bases, "one that begins later tells nothing again"


def test_a_trial_of_a_live_driver_is_left_alone_and_one_of_a_dead_process_is_not(tmp_path, monkeypatch) -> None:
    experiment = tiny_experiment()
    study = study_of(experiment)
    trial = study.ask({})
    claim(study, trial)
    owner = dict(study.get_trials()[0].user_attrs[OWNER])
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert reclaim(study, alone=False) == 0, "the process lives"
    monkeypatch.setattr("time.time", lambda: owner["expires"] + 1e9)
    assert reclaim(study, alone=False) == 0, "a clock that jumps ends no lease on this machine"
    trial.set_user_attr(OWNER, {**owner, "born": "0"})
    assert reclaim(study, alone=False) == 1, "another process has its id now"


def test_a_trial_of_another_machine_is_taken_over_when_its_lease_ends(monkeypatch) -> None:
    study = study_of(tiny_experiment())
    trial = study.ask({})
    claim(study, trial)
    owner = dict(study.get_trials()[0].user_attrs[OWNER])
    trial.set_user_attr(OWNER, {**owner, "host": "elsewhere"})
    assert reclaim(study, alone=False) == 0
    monkeypatch.setattr("time.time", lambda: owner["expires"] + 1)
    assert reclaim(study, alone=False) == 1


def test_a_lease_is_renewed_while_its_process_holds_on_to_the_trial(tmp_path, monkeypatch) -> None:
    study = study_of(tiny_experiment(), f"sqlite:///{tmp_path / 'study.db'}")
    held, ended, let_go = study.ask({}), study.ask({}), study.ask({})
    for trial in (held, ended, let_go):
        claim(study, trial, renewed=True)
    before = [trial.user_attrs[OWNER]["expires"] for trial in study.get_trials()]
    study.tell(ended, state=optuna.trial.TrialState.FAIL)
    del let_go, trial
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3600)
    renew()
    after = [trial.user_attrs[OWNER]["expires"] for trial in study.get_trials()]
    assert after[0] >= before[0] + 3590
    assert after[1:] == before[1:]
    assert [thread.name for thread in threading.enumerate()].count("kmr-leases") == 1
    assert reclaim(study, alone=False) == 1, "what this process let go of is tried again"


def test_a_limit_ends_the_sweep_with_its_reason(tmp_path) -> None:
    experiment = tiny_experiment(anchors=0, stop=Stop(window=3, gain=1.0))
    sweep, why, _ = run(experiment, study_of(experiment), tmp_path, 50)
    assert sweep.finished == 4
    assert "last 3 trials" in str(why)
