import gc

import pytest

from kmr.core import KMRError
from kmr.meters.timing import Timing, instructions, time_calls


def test_calls_take_turns_after_the_warm_up_without_garbage_collection():
    order = []
    timings = time_calls(
        [lambda: order.append(("a", gc.isenabled())), lambda: order.append(("b", gc.isenabled()))],
        warmup=1, repeats=3, threads=2, hardware="this",
    )  # fmt: skip
    assert order == [("a", False), ("b", False)] * 4
    assert gc.isenabled()
    assert [(t.repeats, t.threads, t.hardware, len(t.samples)) for t in timings] == [(3, 2, "this", 3)] * 2


def test_a_timing_of_more_spread_is_noisy():
    steady = Timing(median=4.0, p95=5.0, minimum=3.0, spread=0.1, repeats=9, threads=1, hardware="")
    assert not steady.noisy
    assert Timing(median=4.0, p95=5.0, minimum=3.0, spread=0.11, repeats=9, threads=1, hardware="").noisy


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"threads": 0}, {"warmup": -1}])
def test_what_cannot_be_timed_is_refused(wrong):
    with pytest.raises(KMRError, match="timing needs"):
        time_calls([lambda: None], **{"warmup": 0, "repeats": 1, "threads": 1, "hardware": "", **wrong})


def test_instruction_sets_are_those_of_the_processor():
    assert all(name == name.lower() for name in instructions())
