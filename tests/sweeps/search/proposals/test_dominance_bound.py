"""Bound rejection: what is hopeless is said to be, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmr.core import Choice, FloatRange
from sweeps.errors import SweepError
from sweeps.search.problem import Problem
from sweeps.search.proposals.dominance_bound import Bound, is_milder

SPACE = {
    "ratio": FloatRange(0.0, 1.0, neutral=0.0),
    "bits": Choice((32, 8, 4), neutral=32),
    "kind": Choice(("none", "a", "b"), neutral="none"),
}
PROBLEM = Problem(SPACE, {"bytes": "minimize", "accuracy": "maximize"})


def vector(ratio: float, bits: int, kind: str = "none") -> dict[str, object]:
    return {"ratio": ratio, "bits": bits, "kind": kind}


@pytest.mark.parametrize(
    ("one", "other", "milder"),
    [
        (vector(0.2, 8), vector(0.5, 4), True),
        (vector(0.5, 4), vector(0.2, 8), False),
        (vector(0.2, 4), vector(0.5, 8), False),
        (vector(0.2, 8), vector(0.2, 8, "a"), True),
        (vector(0.2, 8, "a"), vector(0.2, 8, "b"), False),
    ],
)
def test_milder_turns_no_knob_further(one, other, milder) -> None:
    assert is_milder(SPACE, one, other) is milder


def test_a_vector_that_a_cheaper_and_better_trial_shuts_out_is_hopeless() -> None:
    bound = Bound(PROBLEM, 0.01)
    done = [(vector(0.2, 8), [100.0, 0.80]), (vector(0.0, 4, "a"), [50.0, 0.90])]
    assert "50" in str(bound.hopeless(vector(0.3, 8), {"bytes": 90.0}, done))
    assert bound.hopeless(vector(0.3, 8), {"bytes": 40.0}, done) is None, "it is cheaper than all"
    assert Bound(PROBLEM, 0.15).hopeless(vector(0.3, 8), {"bytes": 90.0}, done) is None, "the margin lets it hope"
    assert bound.hopeless(vector(0.3, 8, "b"), {}, done) is None, "nothing is known of its cost"
    assert bound.hopeless(vector(0.0, 8, "b"), {"bytes": 90.0}, done) is None, "no milder vector has been tried"


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([32, 8, 4])), min_size=1, max_size=8), st.floats(0, 1))
def test_where_quality_falls_with_every_knob_no_point_of_the_front_is_hopeless(tried, ratio) -> None:
    def values(params) -> list[float]:
        return [(1 - params["ratio"] / 2) * params["bits"], -params["ratio"] - 8 / params["bits"]]

    done = [(vector(r, b), values(vector(r, b))) for r, b in tried]
    new = vector(ratio, 8)
    cost, quality = values(new)
    beaten = any(c <= cost and q >= quality for _, (c, q) in done)
    if Bound(PROBLEM, 0.0).hopeless(new, {"bytes": cost}, done) is not None:
        assert beaten


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_out_of_range_is_refused(margin) -> None:
    with pytest.raises(SweepError, match="bound_margin"):
        Bound(PROBLEM, margin)
