"""How `search` runs: in several processes, at rising fidelities, to its limits, by an executor of the user's own."""

import itertools
import subprocess
import sys
import time
from collections import Counter, deque

import optuna
import pytest
from functions import KilledOnce, Logged, readings
from programs import Program

from kmr.core import Choice, IntRange, Reading
from sweeps import Search, Stop, search
from sweeps.errors import SweepError
from sweeps.search.execution.driver import drive
from sweeps.search.execution.halving import Halving
from sweeps.search.execution.interrupts import Interrupts

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = {"width": IntRange(1, 12, neutral=12), "bits": Choice((32, 8, 4, 2), neutral=32)}
BOTH = {"bytes": "minimize", "accuracy": "maximize"}


def size(knobs):
    return {"bytes": knobs["width"] * knobs["bits"] / 8}


def vectors(found, *states):
    return [tuple(record.params.values()) for record in found.records if record.state in (states or ("complete",))]


def test_the_search_needs_no_config_and_no_tracking():
    code = (
        "from sweeps import search; import sys; print(*({'hydra', 'mlflow', 'omegaconf', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


def test_several_processes_share_the_trials_and_none_is_trained_twice():
    told = []
    found = search(SPACE, readings, BOTH, {"bytes": 12.0}, 16, static_costs=size, workers=2, on_trial=told.append)
    assert found.counts.complete == 16
    assert len(set(vectors(found))) == 16
    pids = Counter(record.readings["pid"] for record in found.records if record.state == "complete")
    assert len(pids) == 2
    assert len(told) == 16


def test_a_process_that_dies_loses_no_trial(tmp_path, caplog, forked_workers):
    found = search(SPACE, KilledOnce(tmp_path), BOTH, None, 6, workers=2)
    assert found.counts.complete == 6
    assert vectors(found, "retried") == [(12, 8)]
    assert (12, 8) in vectors(found)
    assert "its worker died (killed by signal 9" in caplog.text


def test_what_cannot_be_sent_to_another_process_is_said_at_once():
    with pytest.raises(SweepError, match="define it at the top of a module"):
        search(SPACE, lambda knobs: readings(knobs), BOTH, workers=2)
    with pytest.raises(SweepError, match="workers must be between 1 and 1024, not 0"):
        search(SPACE, readings, BOTH, workers=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_trials_that_look_hopeless_at_a_low_fidelity_are_stopped_there(tmp_path, workers, forked_workers):
    evaluate = Logged(tmp_path)
    settings = {"fidelities": Halving((0.25, 1.0), grace=3), "workers": workers}
    found = search(SPACE, evaluate, BOTH, None, 30, sampler=optuna.samplers.RandomSampler(seed=1), **settings)
    shares = [line.split()[0] for line in evaluate.log.read_text().splitlines()]
    assert shares.count("0.25") == 30
    assert shares.count("1") == found.counts.complete < 30
    assert found.counts.early_stopped == 30 - found.counts.complete
    assert found.counts.evaluated == 30
    stopped = next(record for record in found.records if record.state == "early-stopped")
    assert "stopped at a fidelity of 0.25: place" in stopped.error
    assert not stopped.is_feasible
    assert all(record.readings["accuracy"] == readings(record.params)["accuracy"] for record in found.front)
    other = search(SPACE, evaluate, BOTH, None, 3, start=[{"width": 1, "bits": 32}], seed=9, **settings)
    assert other.counts.early_stopped == 0, "what was decided in one study says nothing of another"


@pytest.mark.parametrize("shares", [(0.5,), (1.0, 0.5), (0.0, 1.0), "all", (0.25, "much")])
def test_fidelities_that_are_none_are_refused(shares):
    with pytest.raises(SweepError, match="fidelities must"):
        search(SPACE, readings, BOTH, fidelities=shares)


def test_limits_on_time_and_on_gain_end_it_and_are_named():
    assert search(SPACE, readings, BOTH, trials=3).ended is None
    found = search(SPACE, readings, BOTH, stop=Stop(training_seconds=0.1))
    assert found.counts.complete < 10
    assert "stop.training_seconds=0.1" in found.ended
    found = search(SPACE, readings, BOTH, stop=Stop(seconds=0.2))
    assert found.counts.complete < 40
    assert "stop.seconds=0.2" in found.ended
    everything = search(SPACE, readings, BOTH, static_costs=size)
    assert everything.counts.complete == 48
    assert everything.ended == "no new feasible vector is left"
    found = search(SPACE, readings, BOTH, static_costs=size, stop=Stop(window=12, gain=0.01))
    assert found.counts.complete < 48
    assert "the last 12 trials raised the hypervolume by" in found.ended
    with pytest.raises(SweepError, match=r"stop\.window"):
        search(SPACE, readings, BOTH, stop=Stop(window=0))


def test_a_standard_error_is_kept():
    noisy = {"width": Choice((1, 2), neutral=2)}
    found = search(noisy, lambda knobs: {"loss": Reading(knobs["width"], 0.25)}, {"loss": "minimize"}, trials=2)
    assert [record.stderrs for record in found.records] == [{"loss": 0.25}] * 2
    assert [dict(record.readings) for record in found.front] == [{"loss": 1.0}]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (0.5, "evaluate returned a float: return a mapping from meter to reading"),
        ({"bytes": "few", "accuracy": 1.0}, "bytes is 'few', not a number"),
        ({"bytes": None, "accuracy": 1.0}, "bytes is None, not a number"),
        ({"bytes": 1.0, "accuracy": Reading(1.0, -0.1)}, "the standard error of accuracy is -0.1, which is negative"),
    ],
)
def test_what_is_no_reading_fails_its_trial(given, error):
    start = [{"width": width, "bits": 32} for width in (12, 8, 5)]
    found = search(SPACE, lambda knobs: given if knobs["width"] == 8 else readings(knobs), BOTH, None, 3, start=start)
    assert [record.state for record in found.records] == ["complete", "failed", "complete"]
    assert error in found.records[1].error
    run = Search(SPACE, BOTH)
    assert run.tell(run.ask(), given).state == "failed"


class Later:
    """Holds four jobs at a time and does them last come, first served: the shape of an executor for a cluster."""

    def __init__(self, work):
        self.work_of, self.jobs, self.most = work.recipe(), deque(), 0

    @property
    def free(self):
        return 4 - len(self.jobs)

    def submit(self, job):
        self.jobs.append(job)
        self.most = max(self.most, len(self.jobs))

    def work(self, tell):
        tell(self.work_of(self.jobs.pop(), tell))

    def close(self):
        self.jobs.clear()


def test_an_executor_of_the_users_own_does_the_trials():
    made = []
    found = search(SPACE, readings, BOTH, trials=10, executor=lambda work: made.append(Later(work)) or made[0])
    assert found.counts.complete == 10
    assert made[0].most == 4
    assert len(set(vectors(found))) == 10


def test_vectors_of_one_model_wait_for_each_other_and_are_trained_once():
    start = [{"width": 12, "bits": 8}, {"width": 12, "bits": 4}, {"width": 12, "bits": 2}]
    trained = []

    def evaluate(knobs):
        trained.append(tuple(knobs.values()))
        if len(trained) == 1:
            raise RuntimeError("once")
        return readings(knobs)

    class Fifo(Later):
        def work(self, tell):
            tell(self.work_of(self.jobs.popleft(), tell))

    found = search(
        SPACE, evaluate, BOTH, trials=3, start=start, executor=Fifo,
        canonical=lambda knobs: (knobs["width"], knobs["bits"] > 8),
    )  # fmt: skip
    assert trained[:2] == [(12, 8), (12, 4)], "the second waits for the first, which fails; the third for the second"
    assert [record.state for record in found.records[:3]] == ["failed", "complete", "duplicate"]
    assert (12, 2) not in trained


def test_several_searches_share_one_study_and_its_trials(tmp_path):
    settings = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "trials": 12}
    runs = [Search(SPACE, BOTH, **settings) for _ in range(2)]
    for run, _ in zip(itertools.cycle(runs), range(6), strict=False):
        task = run.ask()
        run.tell(task, readings(task.params))
    found = search(SPACE, readings, BOTH, **settings)
    assert found.counts.complete == 12
    assert len(set(vectors(found))) == 12
    assert search(SPACE, readings, BOTH, **settings).counts == found.counts


def test_an_executor_that_breaks_leaves_no_trial_running():
    class Broken(Later):
        def work(self, tell):
            raise OSError("the cluster is gone")

    run = Search(SPACE, BOTH)
    with pytest.raises(OSError, match="the cluster is gone"):
        drive(run.ledger, 5, Broken(run._work), run.watcher.stopping, Interrupts(()), print, str)
    assert {record.state for record in run.result.records} == {"retried"}
    assert len(run.result.records) == 4
    task = run.ask()
    assert run.tell(task, readings(task.params)).state == "complete"


STARTS_AT_ONCE = """
import sys, time, warnings
from functions import readings
from kmr.core import Choice, IntRange
from sweeps import search

space = {"width": IntRange(1, 12, neutral=12), "bits": Choice((32, 8, 4, 2), neutral=32)}
warnings.simplefilter("ignore")
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
found = search(
    space, readings, {"bytes": "minimize", "accuracy": "maximize"}, None, 24, storage=sys.argv[1],
    static_costs=lambda knobs: {"bytes": knobs["width"] * knobs["bits"] / 8},
)
print(found.counts.complete, found.ended)
"""


def test_processes_that_begin_one_study_at_once_train_nothing_twice(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    Program(("-c", ""), tmp_path / "warm").wait()
    command = ("-c", STARTS_AT_ONCE, url, str(time.time() + 3))
    started = [Program(command, tmp_path / f"printed.{count}") for count in range(2)]
    for process in started:
        printed = process.wait()
        assert process.returncode == 0, printed
        last = printed.splitlines()[-1]
        assert last.startswith("24 ") or "running in other processes" in last
    found = Search(SPACE, BOTH, storage=url).result
    trained = vectors(found)
    assert len(trained) == len(set(trained))
    assert 24 <= found.counts.complete <= 25, "the other may have begun its last at the same moment"
    assert not found.study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert len({record.readings["pid"] for record in found.records if record.state == "complete"}) == 2
