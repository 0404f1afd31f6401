"""Proposition 1, and the loop's every exit, on models whose costs are computed by hand."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy import Jitter, Largest, Numbers, Scale, Total, toy

from kmr.core import (
    Budget,
    Cost,
    CostRose,
    Instantiation,
    KMRError,
    Move,
    NonFiniteReading,
    NotApplicable,
    Outcome,
    Policy,
    Reading,
    TransformationSequence,
    budgeted_kmr,
    measure_base,
    run_sequence,
)


class Listed(Policy):
    """Proposes the moves it is given, in order, and keeps what it was refused."""

    def __init__(self, *moves: Move) -> None:
        self.moves = list(moves)
        self.refused: list[Move] = []

    def __call__(self, model, costs, qualities):
        return self.moves.pop(0) if self.moves else None

    def refuse(self, move: Move) -> None:
        self.refused.append(move)


def halve(index: int = 0) -> Move:
    return Move("scale.by" if index == 0 else f"scale{index}.by", 0.5)


moves = st.tuples(st.integers(0, 3), st.floats(-1, 1)).map(
    lambda drawn: Move(
        ("one.by", "two.by", "gone.by", "jitter.size")[drawn[0]], abs(drawn[1]) if drawn[0] == 3 else drawn[1]
    )
)


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=2),
    proposed=st.lists(moves, max_size=12),
    limit=st.floats(0, 8),
    most=st.integers(1, 6),
    how=st.sampled_from(["break", "next"]),
    recovers=st.booleans(),
)
def test_proposition_1(values, proposed, limit, most, how, recovers) -> None:
    instantiation = toy(Scale(name="one"), Scale(name="two", index=1), Scale(name="gone", index=-1), Jitter())

    def shrink(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            model.values *= 0.9
        return model

    run = budgeted_kmr(
        Numbers(*values), instantiation, Listed(*proposed), Budget("total", limit, most),
        finetune=shrink if recovers else None, on_no_progress=how,
    )  # fmt: skip
    costs = [step.costs["total"].value for step in run.trace.accepted]
    assert all(later < earlier for earlier, later in pairwise(costs)), "(a) costs strictly decrease"
    assert len(costs) - 1 <= most, "(b) at most N accepted iterations"
    assert (run.outcome is Outcome.SUCCESS) == (costs[-1] <= limit), "(c) success means C(M) ≤ B, failure C(M) > B"
    assert Total()(run.model).value == costs[-1], "the model returned is the one the trace ends with"


@settings(max_examples=100, deadline=None)
@given(proposed=st.lists(moves.filter(lambda move: move.knob != "gone.by"), max_size=6))
def test_replaying_a_trace_is_bit_identical(proposed) -> None:
    instantiation = toy(Scale(name="one"), Scale(name="two", index=1), Jitter())
    first = run_sequence(Numbers(1.0, -2.0), instantiation, TransformationSequence(tuple(proposed)))
    again = run_sequence(Numbers(1.0, -2.0), instantiation, first.trace.sequence)
    assert torch.equal(first.model.values, again.model.values)
    assert first.trace == again.trace


def test_the_loop_stops_at_the_budget_and_records_every_model() -> None:
    told = []
    run = budgeted_kmr(
        Numbers(8.0, 1.0), toy(Scale()), Listed(halve(), halve(), halve()), Budget("total", 4.0, 9),
        on_step=lambda step, model: told.append((str(step.sequence), float(model.values[0].detach()))),
    )  # fmt: skip
    assert run.outcome is Outcome.SUCCESS
    assert [step.costs["total"].value for step in run.trace] == [9.0, 5.0, 3.0]
    assert [step.qualities["largest"].value for step in run.trace] == [8.0, 4.0, 2.0]
    assert told == [("base model", 8.0), ("scale.by=0.5", 4.0), ("scale.by=0.5 → scale.by=0.5", 2.0)]


def test_a_base_model_within_the_budget_is_returned_as_it_is() -> None:
    model = Numbers(1.0)
    run = budgeted_kmr(model, toy(Scale()), Listed(halve()), Budget("total", 1.0, 5))
    assert (run.model, run.outcome, len(run.trace)) == (model, Outcome.SUCCESS, 1)


@pytest.mark.parametrize(("how", "end"), [("break", 8.0), ("next", 4.0)])
def test_a_move_that_saves_nothing_stops_the_run_or_asks_again(how, end) -> None:
    policy = Listed(Move("scale.by", -0.5), halve())
    run = budgeted_kmr(Numbers(8.0), toy(Scale()), policy, Budget("total", 4.0, 5), on_no_progress=how)
    assert run.model.values.tolist() == [end]
    refused = [step for step in run.trace if not step.accepted]
    assert "no progress" in refused[0].notes[0]
    assert policy.refused == ([] if how == "break" else [Move("scale.by", -0.5)])


def test_a_move_that_cannot_be_applied_is_refused_with_its_reason() -> None:
    run = budgeted_kmr(Numbers(8.0), toy(Scale(index=-1)), Listed(halve()), Budget("total", 4.0, 5))
    assert run.outcome is Outcome.FAILURE
    assert "there is no entry -1" in run.trace.steps[-1].notes[0]


def test_refusals_in_a_row_are_bounded() -> None:
    class Stubborn(Policy):
        asked = 0

        def __call__(self, model, costs, qualities):
            self.asked += 1
            return Move("scale.by", -0.5)

    policy = Stubborn()
    run = budgeted_kmr(Numbers(8.0), toy(Scale()), policy, Budget("total", 4.0, 5), on_no_progress="next")
    assert (run.outcome, policy.asked) == (Outcome.FAILURE, 6)


def test_fine_tuning_that_raises_a_cost_is_a_bug_and_raises() -> None:
    def grow(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            model.values *= 1.5
        return model

    with pytest.raises(CostRose, match="total from 4 to 6"):
        budgeted_kmr(Numbers(8.0), toy(Scale()), Listed(halve()), Budget("total", 1.0, 5), finetune=grow)


def test_a_noisy_cost_may_read_higher_after_fine_tuning_and_still_strictly_decreases() -> None:
    readings = iter([10.0, 9.0, 9.5, 8.0, 8.1])

    @dataclass(frozen=True, kw_only=True)
    class Noisy(Cost):
        name: str = "noisy"
        unit: str = field(init=False, default="1")

        def read(self, seen: nn.Module) -> Reading:
            return Reading(next(readings), stderr=0.2)

    instantiation = Instantiation("toy", (Scale(),), (Noisy(),), (Largest(),))
    budget = Budget("noisy", 8.5, 5)
    run = budgeted_kmr(Numbers(8.0), instantiation, Listed(halve(), halve()), budget, finetune=lambda model: model)
    assert [step.costs["noisy"].value for step in run.trace] == [10.0, 9.0, 8.0]


def test_a_sequence_applies_every_move_whatever_it_costs_and_leaves_neutral_ones_out() -> None:
    sequence = TransformationSequence((Move("scale.by", -0.5), Move("scale.by", 0.0), halve()))
    run = run_sequence(Numbers(8.0), toy(Scale()), sequence)
    assert [step.costs["total"].value for step in run.trace] == [8.0, 12.0, 6.0]


def test_a_sequence_is_checked_before_anything_is_applied() -> None:
    told = []
    sequence = TransformationSequence((halve(), Move("scale.by", 7.0)))
    with pytest.raises(KMRError, match="cannot be 7"):
        run_sequence(Numbers(8.0), toy(Scale()), sequence, on_step=lambda step, _: told.append(step))
    assert told == []


def test_a_sequence_that_cannot_be_applied_keeps_what_came_before() -> None:
    told = []
    instantiation = toy(Scale(), Scale(name="gone", index=-1))
    sequence = TransformationSequence((halve(), Move("gone.by", 0.5)))
    with pytest.raises(NotApplicable, match="there is no entry -1"):
        run_sequence(Numbers(8.0), instantiation, sequence, on_step=lambda step, _: told.append(str(step.sequence)))
    assert told == ["base model", "scale.by=0.5"]


@pytest.mark.parametrize("said", ["gone.by: it has gone", "gone.by=0.51234567: it has gone", "it has gone"])
def test_a_reason_names_its_knob_once(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> nn.Module:
        raise NotApplicable(said)

    monkeypatch.setattr(Scale, "apply", refuse)
    sequence = TransformationSequence((Move("gone.by", 0.51234567),))
    with pytest.raises(NotApplicable, match=r"^gone\.by=0\.5123: it has gone$"):
        run_sequence(Numbers(8.0), toy(Scale(name="gone")), sequence)


def test_a_diverged_model_ends_the_run() -> None:
    def diverge(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            model.values *= math.nan
        return model

    with pytest.raises(NonFiniteReading, match="total"):
        run_sequence(Numbers(8.0), toy(Scale()), TransformationSequence((halve(),)), finetune=diverge)


def test_the_parts_of_a_steps_time_are_told_apart() -> None:
    import time

    def slow(model: nn.Module) -> nn.Module:
        time.sleep(0.02)
        return model

    run = run_sequence(Numbers(8.0), toy(Scale()), TransformationSequence((halve(),)), finetune=slow)
    seconds = run.trace.steps[-1].seconds
    assert seconds.finetune >= 0.02
    assert 0 <= seconds.other < seconds.finetune
    assert seconds.rule > 0
    assert seconds.meter > 0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Budget("total", math.nan, 1), "nan"),
        (lambda: Budget("total", -1.0, 1), "-1.0"),
        (lambda: Budget("total", 1.0, 0), "max_iters"),
        (lambda: budgeted_kmr(Numbers(1.0), toy(Scale()), Listed(), Budget("bytes", 0.0, 1)), "bytes.*total"),
        (
            lambda: budgeted_kmr(Numbers(1.0), toy(Scale()), Listed(), Budget("total", 0.0, 1), on_no_progress="stop"),
            "stop",
        ),
    ],
)
def test_bad_budgets_are_refused_by_value(make, named) -> None:
    with pytest.raises(KMRError, match=named):
        make()


def test_a_given_base_step_is_not_measured_again() -> None:
    instantiation = toy(Scale())
    base = measure_base(Numbers(8.0), instantiation)
    run = run_sequence(Numbers(8.0), instantiation, TransformationSequence((halve(),)), base=base)
    assert run.trace.steps[0] is base
