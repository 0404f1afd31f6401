import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
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
from kmr.data import Split
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.meters import CrossEntropy, WeightBytes
from kmr.policies import Dual


@dataclass(frozen=True, kw_only=True)
class Curve(Quality):
    """f(v₀)."""

    of: Callable[[float], float]
    name: str = "curve"
    unit: str = field(init=False, default="1")

    def read(self, seen: Numbers) -> Reading:
        return Reading(self.of(float(seen.values[0])))


CURVES: dict[str, Callable[[float], float]] = {
    "concave": math.sqrt,
    "convex": lambda x: x**3,
    "linear": lambda x: 1e-4 * x,
    "cliff": lambda x: float(x > 3),
    "flat": lambda x: 1.0,
}


@pytest.mark.parametrize("shape", CURVES)
@pytest.mark.parametrize("limit", [0.7, 2.9, 5.0, 7.5])
def test_a_monotone_knob_converges_to_the_budget_within_two_percent(shape: str, limit: float) -> None:
    instantiation = Instantiation("one", (Scale(),), (Total(),), (Curve(of=CURVES[shape]),))
    space = {"scale.by": FloatRange(0.0, 0.95, neutral=0.0)}
    budget = Budget("total", limit, 40)
    run = budgeted_kmr(Numbers(8.0), instantiation, Dual(instantiation, budget, space), budget)
    assert run.outcome is Outcome.SUCCESS
    assert 0.98 * limit <= run.trace.accepted[-1].costs["total"].value <= limit


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
def test_pruning_converges_to_the_bytes_allowed(share: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    inputs = torch.randn(64, 16)
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    quality = CrossEntropy(data=Split((inputs, targets), 64), name="loss")
    instantiation = Instantiation("prune", (UnstructuredPruning(),), (WeightBytes(),), (quality,))
    limit = share * WeightBytes()(model).value
    budget = Budget("weight_bytes", limit, 20)
    run = budgeted_kmr(model, instantiation, Dual(instantiation, budget), budget)
    assert run.outcome is Outcome.SUCCESS
    assert 0.98 * limit <= run.trace.accepted[-1].costs["weight_bytes"].value <= limit


def test_the_price_is_what_dual_ascent_says() -> None:
    # 8 → 4 loses 4 and relieves 2 of the excess 3 over a budget of 2: it pays above a price of 2. Ascents are of 3/2.
    instantiation = Instantiation("one", (Scale(),), (Total(),), (Curve(of=lambda x: x),))
    space = {"scale.by": Choice((0.5,), neutral=0.0)}
    policy = Dual(instantiation, Budget("total", 2.0, 9), space, step=0.5)
    assert policy(Numbers(8.0), {"total": Reading(8.0)}, {}) == Move("scale.by", 0.5)
    assert policy.price == pytest.approx(3.0)


def test_at_a_low_price_the_cheapest_knob_moves_first() -> None:
    two = toy(Scale(name="one"), Scale(name="two", index=1))
    space = {name: FloatRange(0.0, 0.5, neutral=0.0) for name in ("one.by", "two.by")}
    budget = Budget("total", 9.0, 9)
    run = budgeted_kmr(Numbers(8.0, 6.0), two, Dual(two, budget, space, levels=2), budget)
    assert run.outcome is Outcome.SUCCESS
    assert run.trace.sequence.moves[0].knob == "two.by", "shrinking the smaller entry loses no quality"
    assert run.trace.accepted[-1].costs["total"].value >= 0.98 * 9.0


def test_whole_numbers_and_steps_are_kept() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Tenths(Scale):
        @property
        def knobs(self):
            from kmr.core import Knob

            return (Knob(f"{self.name}.by", IntRange(0, 10, neutral=0)),)

        def apply(self, model, knob, value):
            with torch.no_grad():
                model.values *= 1 - value / 10
            return model

    instantiation = toy(Tenths(name="tenths"))
    budget = Budget("total", 5.5, 9)
    run = budgeted_kmr(Numbers(8.0), instantiation, Dual(instantiation, budget, levels=1), budget)
    assert [str(move) for move in run.trace.sequence] == ["tenths.by=4"]
    stepped = {"scale.by": FloatRange(0.0, 0.8, neutral=0.0, step=0.2)}
    instantiation = toy(Scale())
    run = budgeted_kmr(Numbers(8.0), instantiation, Dual(instantiation, budget, stepped, levels=1), budget)
    assert [str(move) for move in run.trace.sequence] == ["scale.by=0.4"]


def test_nothing_is_proposed_where_nothing_helps_and_a_refused_move_not_again() -> None:
    instantiation = toy(Scale())
    budget = Budget("total", 1.0, 9)
    rising = {"scale.by": Choice((-0.5,), neutral=0.0)}
    assert Dual(instantiation, budget, rising)(Numbers(8.0), {"total": Reading(8.0)}, {}) is None
    policy = Dual(instantiation, budget, {"scale.by": Choice((0.5,), neutral=0.0)})
    policy.refuse(Move("scale.by", 0.5))
    assert policy(Numbers(8.0), {"total": Reading(8.0)}, {}) is None
    run = budgeted_kmr(Numbers(8.0), toy(Scale(index=-1)), Dual(toy(Scale(index=-1)), budget), budget)
    assert run.outcome is Outcome.FAILURE


@pytest.mark.parametrize(
    ("limit", "settings"),
    [(0.0, {}), (1.0, {"step": 0.0}), (1.0, {"tolerance": 0.0}), (1.0, {"bisections": -1})],
)
def test_bad_settings_are_refused(limit: float, settings: dict[str, float]) -> None:
    with pytest.raises(KMRError, match=r"the dual policy|of the dual policy"):
        Dual(toy(Scale()), Budget("total", limit, 9), **settings)  # type: ignore[arg-type]
    blind = Instantiation("blind", (Scale(),), (Total(),), ())
    with pytest.raises(KMRError, match="needs a quality meter"):
        Dual(blind, Budget("total", 1.0, 9))
