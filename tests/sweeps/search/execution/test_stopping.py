"""A sweep ends when its limits say so, and for nothing else."""

import pytest

from sweeps.errors import SweepError
from sweeps.search.execution.stopping import Stop, Stopping
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState


def record(seconds: float = 1.0, state: TrialState = TrialState.COMPLETE) -> Record:
    return Record(0, {}, state, (), seconds=seconds)


def no_gain(window: int) -> float:
    return 0.0


def test_without_limits_nothing_ends_it() -> None:
    stopping = Stopping(Stop(), no_gain)
    for _ in range(1000):
        stopping.finished(record(1e6))
    assert stopping.reason is None


def test_the_seconds_of_all_trials_are_counted_earlier_runs_included() -> None:
    stopping = Stopping(Stop(training_seconds=3.0), no_gain)
    stopping.finished(record(1.5))
    assert stopping.reason is None
    stopping.finished(record(1.5, TrialState.FAILED))
    assert "3 s in all" in str(stopping.reason)


def test_wall_seconds_are_of_this_run(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stopping = Stopping(Stop(seconds=60), no_gain)
    now[0] = 159.0
    assert stopping.reason is None
    now[0] = 160.0
    assert "60 s have passed" in str(stopping.reason)


def test_a_front_that_has_stopped_growing_ends_it() -> None:
    seen: list[float] = []
    stopping = Stopping(Stop(window=3, gain=0.01), lambda window: seen[-1] - seen[-1 - window])
    for hypervolume in (0.1, 0.5, 0.6, 0.605, 0.606):
        seen.append(hypervolume)
        stopping.finished(record())
        assert stopping.reason is None, "0.5 is in the window, then 0.1 of gain"
    seen.append(0.607)
    stopping.finished(record())
    assert "last 3 trials" in str(stopping.reason)


def test_retried_trials_do_not_fill_the_window() -> None:
    stopping = Stopping(Stop(window=2, gain=0.01), no_gain)
    stopping.finished(record())
    for _ in range(5):
        stopping.finished(record(state=TrialState.RETRIED))
    assert stopping.reason is None


WRONG = [Stop(seconds=0), Stop(training_seconds=float("nan")), Stop(window=0), Stop(gain=-1), Stop(gain=float("inf"))]


@pytest.mark.parametrize("stop", WRONG)
def test_limits_out_of_range_are_refused(stop) -> None:
    with pytest.raises(SweepError, match="stop"):
        Stopping(stop, no_gain)
