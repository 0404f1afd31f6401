"""The failure digest counts causes and finds where in the space they lie."""

from sweeps.search.study.failures import cause, digest
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState


def record(state: str, error: str | None = None, **params) -> Record:
    return Record(0, params, TrialState(state), (), error=error)


def test_causes_are_counted_and_their_place_is_named() -> None:
    found = [record("complete", bits=bits, ratio=ratio) for bits in (8, 4) for ratio in (0.1, 0.5, 0.9)]
    nan = "NonFiniteReading: the loss became nan at step"
    found += [record("failed", f"{nan} {step}", bits=2 + step % 2, ratio=0.4) for step in range(3)]
    found += [record("failed", "RuntimeError: CUDA out of memory. Tried to allocate 12 MB", bits=8, ratio=0.5)]
    found += [record("retried", "stopped", bits=8, ratio=0.5)]
    assert digest(found) == ["3 diverged at bits ≤ 3", "1 out of memory"]


def test_no_place_is_named_where_success_is_as_frequent() -> None:
    found = [record("complete", bits=bits) for bits in (8, 4, 2)] * 3
    found += [record("infeasible", "no layer", bits=bits) for bits in (8, 4, 2)]
    assert digest(found) == ["3 no layer"]


def test_errors_that_differ_in_numbers_alone_have_one_cause() -> None:
    assert cause("ValueError: 17 channels at 0.25") == cause("ValueError: 3 channels at 1e-05")
    assert cause("ValueError: channels") != cause("ValueError: heads")


def test_a_study_without_failures_has_no_digest() -> None:
    assert digest([record("complete", bits=8), record("retried", "x", bits=8)]) == []
