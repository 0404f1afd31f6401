from dataclasses import dataclass, field

import pytest
import torch
from toy import Numbers, Scale, Total, toy

from kmr.core import (
    Budget,
    Choice,
    FloatRange,
    Instantiation,
    IntRange,
    KMRError,
    Move,
    Outcome,
    Quality,
    Reading,
    budgeted_kmr,
)
from kmr.core.domain import rungs
from kmr.policies import Dual, Greedy, RandomPolicy, Scheduled

SPACE = {"one.by": FloatRange(0.0, 0.5, neutral=0.0), "two.by": FloatRange(0.0, 0.5, neutral=0.0)}


def two_knobs() -> Instantiation:
    return toy(Scale(name="one"), Scale(name="two", index=1))


@pytest.mark.parametrize(
    ("domain", "levels", "expected"),
    [
        (FloatRange(0.0, 0.9, neutral=0.0), 3, (0.3, 0.6, 0.9)),
        (FloatRange(0.2, 1.0, neutral=1.0), 4, (0.8, 0.6, 0.4, 0.2)),
        (FloatRange(0.0, 0.5, neutral=0.0, step=0.25), 4, (0.25, 0.5)),
        (IntRange(0, 4, neutral=0), 2, (2, 4)),
        (Choice((8, 6, 4, 2), neutral=32), 4, (8, 6, 4, 2)),
        (Choice((32, 8, 6, 4, 2), neutral=32), 2, (6, 2)),
        (Choice((32,), neutral=32), 3, ()),
    ],
)
def test_rungs_climb_from_neutral_to_the_strongest(domain, levels, expected) -> None:
    assert rungs(domain, levels) == pytest.approx(expected)


def test_a_ladder_needs_a_level() -> None:
    with pytest.raises(KMRError, match="not 0"):
        rungs(FloatRange(0.0, 0.9, neutral=0.0), 0)


def moves_of(policy) -> list[str]:
    found = []
    while (move := policy(Numbers(1.0, 1.0), {}, {})) is not None:
        found.append(str(move))
    return found


def test_the_schedule_interleaves_or_goes_knob_by_knob_in_the_order_given() -> None:
    budget = Budget("total", 0.0, 9)
    assert moves_of(Scheduled(two_knobs(), budget, SPACE, levels=2)) == [
        "one.by=0.25", "two.by=0.25", "one.by=0.5", "two.by=0.5",
    ]  # fmt: skip
    policy = Scheduled(two_knobs(), budget, SPACE, levels=2, order=["two.by", "one.by"], interleaved=False)
    assert moves_of(policy) == ["two.by=0.25", "two.by=0.5", "one.by=0.25", "one.by=0.5"]
    with pytest.raises(KMRError, match=r"unknown knobs three\.by"):
        Scheduled(two_knobs(), budget, SPACE, order=["three.by"])


def test_greedy_takes_the_candidate_that_loses_least_quality_per_cost_saved() -> None:
    # The quality is the largest entry: shrinking the smaller one costs none, shrinking the largest costs its all.
    run = budgeted_kmr(
        Numbers(8.0, 6.0), two_knobs(), Greedy(two_knobs(), Budget("total", 9.0, 9), SPACE, levels=2),
        Budget("total", 9.0, 9),
    )  # fmt: skip
    assert [str(step.move) for step in run.trace.steps[1:]] == ["two.by=0.25", "two.by=0.5", "one.by=0.25"]
    assert run.outcome is Outcome.SUCCESS


def test_greedy_passes_over_rungs_that_save_nothing_and_ends() -> None:
    space = {"one.by": Choice((-0.5, 0.0, 0.5), neutral=0.1)}
    budget = Budget("total", 0.0, 9)
    run = budgeted_kmr(Numbers(8.0, 1.0), two_knobs(), Greedy(two_knobs(), budget, space, levels=3), budget)
    assert [str(step.move) for step in run.trace.steps[1:]] == ["one.by=0.5"]
    assert run.outcome is Outcome.FAILURE


def test_random_follows_its_seed_and_never_repeats_a_refused_move() -> None:
    def drawn(seed: int) -> list[str]:
        policy = RandomPolicy(two_knobs(), Budget("total", 0.0, 9), SPACE, levels=3, seed=seed)
        found = []
        while (move := policy(Numbers(1.0, 1.0), {}, {})) is not None:
            found.append(str(move))
            policy.refuse(move)
        return found

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len(set(drawn(0))) == len(drawn(0)) == 6


def test_random_may_propose_a_refused_move_again_once_the_model_has_changed() -> None:
    policy = RandomPolicy(two_knobs(), Budget("total", 0.0, 9), {"one.by": SPACE["one.by"]}, levels=1)
    first = policy(Numbers(1.0, 1.0), {}, {})
    assert first == Move("one.by", 0.5)
    assert policy(Numbers(0.5, 1.0), {}, {}) == first, "an accepted move may come again"
    policy.refuse(first)
    assert policy(Numbers(0.5, 1.0), {}, {}) is None


@pytest.mark.parametrize("policy", [Scheduled, Greedy, Dual, RandomPolicy])
def test_every_policy_reaches_a_reachable_budget(policy) -> None:
    budget = Budget("total", 10.0, 20)
    run = budgeted_kmr(
        Numbers(8.0, 6.0), two_knobs(), policy(two_knobs(), budget, SPACE), budget, on_no_progress="next"
    )
    assert run.outcome is Outcome.SUCCESS
    assert float(run.model.values.detach().abs().sum()) <= 10.0
    assert torch.isfinite(run.model.values).all()


@dataclass(frozen=True, kw_only=True)
class Uneven(Quality):
    """max(v₀, v₁) + 0.7·v₂."""

    name: str = "uneven"
    unit: str = field(init=False, default="1")

    def read(self, seen: Numbers) -> Reading:
        one, two, three = seen.values.tolist()
        return Reading(max(one, two) + 0.7 * three)


def test_greedy_looks_ahead_past_a_dear_move_that_makes_the_next_one_free() -> None:
    # Of (8, 6, 5), the first move of `one` loses 2 for 2 and its second none for 3; `three` loses 0.7 for 1 always.
    rules = (Scale(name="one"), Scale(name="three", index=2))
    instantiation = Instantiation("uneven", rules, (Total(),), (Uneven(),))
    space = {"one.by": Choice((0.25, 0.5), neutral=0.0), "three.by": Choice((0.25, 0.5), neutral=0.0)}

    def first(lookahead: int, limit: float = 2.0) -> str:
        policy = Greedy(instantiation, Budget("total", limit, 9), space, lookahead=lookahead)
        return str(policy(Numbers(8.0, 6.0, 5.0), {"total": Reading(19.0)}, {}))

    assert (first(1), first(2), first(3)) == ("three.by=0.25", "one.by=0.25", "one.by=0.25")
    assert first(2, limit=18.0) == "three.by=0.25", "nothing follows a move that meets the budget"
    with pytest.raises(KMRError, match="not 0"):
        first(0)
