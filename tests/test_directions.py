"""A quality q to maximise and one that reads −q to minimise are the same study, in every part that compares."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from functions import accuracy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import Mean, run, study_of, tiny_experiment
from torch import nn
from toy import Largest, Numbers, Scale, Total

from analysis.comparison import pairwise, standings
from analysis.contribution import contributions
from analysis.front import front_frame
from analysis.importance import importance_for_front
from analysis.pareto.dominance import non_dominated, ranks
from analysis.pareto.hypervolume import history, hypervolume, hypervolume_share
from analysis.pareto.indicators import coverage, epsilon, igd_plus, r2
from analysis.pareto.probability import probability_non_dominated
from analysis.plots.progress import progress
from analysis.selection.choose import choose
from analysis.selection.standing_answers import recommend
from analysis.table import StudyTable, from_frame
from analysis.uncertainty import front_probability
from kmr.core import Budget, Choice, Direction, FloatRange, Instantiation, IntRange, Quality, Reading, budgeted_kmr
from kmr.core.aggregate import WeightedQuality
from kmr.policies import Allocated, Dual, Greedy
from sweeps.experiment.front import corners
from sweeps.experiment.layer_scan import LayerProbe, scan
from sweeps.search.execution.halving import Halving
from sweeps.search.function import search
from sweeps.views.card import StudyCard
from sweeps.views.mlflow.open_tracker import BestWithinLimits

torch.set_num_threads(1)
optuna.logging.set_verbosity(optuna.logging.ERROR)
UP, DOWN = ("minimize", "maximize"), ("minimize", "minimize")
NUMBERS = st.integers(-4, 4).map(float)


@dataclass(frozen=True, kw_only=True)
class Lowered(Quality):
    """Reads −q of another quality."""

    of: Quality
    name: str = "largest"
    unit: str = field(init=False, default="1")
    direction: Direction = field(init=False, default="minimize")

    def read(self, seen: nn.Module) -> Reading:
        reading = self.of.read(seen)
        return Reading(-reading.value, reading.stderr)


def turned(values: np.ndarray) -> np.ndarray:
    return values * np.array([1.0, -1.0])


@settings(max_examples=60, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=NUMBERS), st.integers(0, 3))
def test_arithmetic_on_fronts_is_the_same(values: np.ndarray, seed: int) -> None:
    other, reference, ideal = turned(values), np.array([5.0, -5.0]), np.array([-5.0, 5.0])
    stderrs = np.random.default_rng(seed).uniform(0, 1, values.shape)
    assert (non_dominated(values, UP) == non_dominated(other, DOWN)).all()
    assert (ranks(values, UP) == ranks(other, DOWN)).all()
    assert hypervolume(values, reference, UP) == hypervolume(other, turned(reference), DOWN)
    assert (history(values, reference, UP) == history(other, turned(reference), DOWN)).all()
    corner = turned(reference), turned(ideal)
    assert hypervolume_share(values, reference, ideal, UP) == hypervolume_share(other, *corner, DOWN)
    assert r2(values, UP, ideal, reference) == r2(other, DOWN, corner[1], corner[0])
    half = len(values) // 2 + 1
    for compare in (coverage, epsilon, igd_plus):
        assert compare(values[:half], values, UP) == compare(other[:half], other, DOWN)
    up, down = (
        probability_non_dominated(each, stderrs, ways, draws=50) for each, ways in ((values, UP), (other, DOWN))
    )
    assert (up == down).all()


@settings(max_examples=40, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 14), st.just(2)), elements=NUMBERS))
def test_halving_decides_the_same(values: np.ndarray) -> None:
    halving, others = Halving((0.25, 1.0), 2.0, 3, z=0.5), turned(values)
    for trial in range(len(values)):
        up = halving.decide(values[trial], values[:trial], UP, [0.0, 0.3])
        assert up == halving.decide(others[trial], others[:trial], DOWN, [0.0, 0.3])


def rows(sign: float) -> StudyTable:
    random = np.random.default_rng(3)
    size, knob = random.integers(100, 900, 40).astype(float), random.uniform(0, 1, 40)
    quality = 0.9 - 50 / size - 0.1 * knob + random.normal(0, 0.01, 40)
    technique = np.where(knob < 0.5, "quantize", "prune + quantize")
    columns = {"knob/prune.ratio": knob, "meter/size": size, "meter/q": sign * quality, "stderr/q": 0.01}
    columns |= {"test/q": sign * (quality - 0.01), "test_stderr/q": 0.01, "technique": technique}
    frame = pd.DataFrame(columns | {"sequence": "[]", "trial": range(40)})
    way = "maximize" if sign > 0 else "minimize"
    return from_frame(
        frame, {"size": "minimize", "q": way}, limits={"size": 500.0, "q": sign * 0.6},
        meters={"size": {"kind": "cost"}, "q": {"kind": "quality"}},
        baseline={"size": {"value": 1000.0}, "q": {"value": sign * 0.85, "stderr": 0.01}},
        reference={"size": 1100.0, "q": sign * 0.3}, ideal={"size": 0.0, "q": sign * 0.9},
    )  # fmt: skip


def test_a_table_is_judged_the_same() -> None:
    up, down = rows(1.0), rows(-1.0)
    assert down.kind("q") == "quality"
    assert up.plane == down.plane == ("size", "q")
    assert list(front_frame(up)["point"]) == list(front_frame(down)["point"])
    assert contributions(up) == contributions(down)
    assert importance_for_front(up).shares == importance_for_front(down).shares
    assert progress(up).volumes.tolist() == progress(down).volumes.tolist()
    assert (front_probability(up) == front_probability(down)).all()
    (one,), (other,) = standings({"a": [up]}), standings({"a": [down]})
    for found in ("hypervolume", "r2", "igd_plus", "front"):
        assert getattr(one, found).mean == getattr(other, found).mean
    halves = [{"a": [t], "b": [replace(t, frame=t.frame.iloc[:20])]} for t in (up, down)]
    for kind in ("coverage", "epsilon"):
        assert np.allclose(pairwise(halves[0], kind), pairwise(halves[1], kind), equal_nan=True)


def test_the_same_models_are_recommended() -> None:
    up, down = rows(1.0), rows(-1.0)
    chosen = [answer.point for answer in recommend(up)]
    assert chosen == [answer.point for answer in recommend(down)]
    assert len(set(chosen)) > 2
    best, other = choose(up), choose(down)
    assert best.best == other.best == "q"
    assert best.pick.point == other.pick.point
    assert other.question == "lowest q, no limit set"
    for limits, mirrored in ([["q>=0.7"], ["q<=-0.7"]], [["size<=400"], ["size<=400"]]):
        one, two = choose(up, limits), choose(down, mirrored)
        assert (one.pick.point, one.pick.p_limits) == (two.pick.point, pytest.approx(two.pick.p_limits))
        assert one.p_better == pytest.approx(two.p_better)


SPACE = {"width": IntRange(1, 12, neutral=12), "bits": Choice((32, 8, 4, 2), neutral=32)}


@pytest.mark.parametrize("more", [{}, {"static": True}, {"static": True, "limit": 0.6}, {"fidelities": (0.25, 1.0)}])
def test_a_search_proposes_the_same_and_finds_the_same_front(more: dict[str, object]) -> None:
    def found(sign: float):
        def evaluate(knobs, share=1.0):
            return {"bytes": knobs["width"] * knobs["bits"] / 8, "q": sign * accuracy(knobs) * (0.5 + share / 2)}

        ways = {"bytes": "minimize", "q": "maximize" if sign > 0 else "minimize"}
        limits = {"q": sign * more["limit"]} if "limit" in more else None
        known = (lambda knobs: {"bytes": knobs["width"] * knobs["bits"] / 8}) if "static" in more else None
        result = search(SPACE, evaluate, ways, limits, 24, static_costs=known, fidelities=more.get("fidelities"))
        return [(t.params, t.state, t.is_feasible) for t in result.records], [t.params for t in result.front]

    assert found(1.0) == found(-1.0)


def test_a_sweep_trains_the_same_and_finds_the_same_front(tmp_path: Path) -> None:
    sweeps = []
    for quality in (Mean(name="mean"), Lowered(name="mean", of=Mean(name="mean"))):
        plain = {"objectives": ["total", "mean"], "limits": {"total": 9.0}}
        experiment = tiny_experiment(qualities=(quality,), plain=plain, anchors=1, limits={"total": 9.0})
        folder = tmp_path / quality.direction
        sweep, _, _ = run(experiment, study_of(experiment), folder, 12)
        sweeps.append((sweep, experiment))
        reference, ideal = corners(experiment)
        worse = experiment.instantiation.qualities[0].lost(ideal["mean"], reference["mean"])
        assert worse == pytest.approx(0.5 * abs(ideal["mean"]))
    (up, one), (down, other) = sweeps
    assert up.front.members == down.front.members
    assert up.front.hypervolume == pytest.approx(down.front.hypervolume, rel=1e-12)
    assert [record.params for record in up.records] == [record.params for record in down.records]
    card = StudyCard.of(other)
    assert [(meter.name, meter.kind, meter.direction) for meter in card.meters] == [
        ("total", "cost", "minimize"), ("mean", "quality", "minimize"),
    ]  # fmt: skip
    assert set(card.base.costs) == {"total"}
    best = [BestWithinLimits(StudyCard.of(e), s.records)(s.records[-1]) for s, e in ((up, one), (down, other))]
    assert best[0]["best_within_limits/mean"] == -best[1]["best_within_limits/mean"]


@pytest.mark.parametrize("policy", [Greedy, Dual, Allocated])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.5, 9.0), min_size=3, max_size=3), st.floats(0.4, 0.9))
def test_policies_choose_the_same(policy: type, values: list[float], share: float) -> None:
    rules = tuple(Scale(name=name, index=index) for index, name in enumerate(("one", "two", "three")))
    space = {f"{rule.name}.by": FloatRange(0.0, 0.5, neutral=0.0) for rule in rules}
    budget = Budget("total", share * sum(values), 9)
    moves = []
    for quality in (Largest(), Lowered(of=Largest())):
        chosen = Instantiation("toy", rules, (Total(),), (quality,))
        trace = budgeted_kmr(Numbers(*values), chosen, policy(chosen, budget, space, levels=3), budget).trace
        moves.append([str(move) for move in trace.sequence])
    assert moves[0] == moves[1]


def test_a_scan_measures_the_same_loss() -> None:
    model, rule = Numbers(8.0, 6.0), Scale()
    probe = LayerProbe("values", ("values",), rule, "scale.by")
    lost = []
    for quality in (Largest(), Lowered(of=Largest())):
        base = {"largest": quality(model).value, "total": 14.0}
        lost.append([row["lost"] for row in scan(model, [(probe, 0.5), (probe, -0.5)], quality, (Total(),), base)])
    assert lost[0] == lost[1] == [2.0, -4.0]


def test_a_weighted_quality_takes_the_direction_of_its_meters() -> None:
    model, up, down = Numbers(8.0, 6.0), Largest(), Lowered(name="lowered", of=Largest())
    both = WeightedQuality(name="both", meters=(up, down), weights=(2.0, 1.0))
    assert (both.direction, both(model).value) == ("maximize", 24.0)
    loss = WeightedQuality(name="loss", meters=(down, Lowered(name="again", of=Largest())), weights=(1.0, 1.0))
    assert (loss.direction, loss(model).value) == ("minimize", -16.0)
