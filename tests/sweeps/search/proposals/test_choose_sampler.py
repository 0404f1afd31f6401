import logging
import math
from pathlib import Path

import pytest
import yaml
from optuna.samplers import GPSampler, NSGAIISampler, TPESampler
from tiny import tiny_experiment

import conf
from kmr.core import Choice, FloatRange, IntRange
from sweeps.experiment.open_study import make_sampler
from sweeps.search.problem import Problem
from sweeps.search.proposals.acquisition import Screening
from sweeps.search.proposals.choose_sampler import (
    MANY_TRIALS,
    describe_sampler,
    pick_sampler,
    screening_for,
    screening_pays,
    seed_after,
)
from sweeps.search.proposals.initial import anchors

FLAT = {"x": FloatRange(0.0, 1.0, 0.0), "y": FloatRange(1e-3, 1.0, 1e-3, log=True)}
MIXED = {"x": FloatRange(0.0, 1.0, 0.0), "bits": Choice((8, 4, 2), 8)}
STEPPED = {"x": FloatRange(0.0, 1.0, 0.0, step=0.1), "n": IntRange(1, 4, 1)}
BOTH = {"size": "minimize", "accuracy": "maximize"}


@pytest.mark.parametrize(
    ("space", "trials", "settings", "kind", "said"),
    [
        (MIXED, 100, {}, TPESampler, "multivariate TPE"),
        (STEPPED, 100, {}, TPESampler, "multivariate TPE"),
        (MIXED, 100, {"conditional": True}, TPESampler, "grouped multivariate TPE"),
        (FLAT, 100, {}, GPSampler, "Gaussian process"),
        (FLAT, 100, {"separable": True}, TPESampler, "independent TPE"),
        (FLAT, 500, {}, TPESampler, "independent TPE"),
        ({f"x{i}": FloatRange(0.0, 1.0, 0.0) for i in range(20)}, 100, {}, TPESampler, "independent TPE"),
        (MIXED, MANY_TRIALS + 1, {}, NSGAIISampler, "NSGA-II"),
    ],
)
def test_the_space_decides_and_the_log_says_why(space, trials, settings, kind, said, caplog):
    with caplog.at_level(logging.INFO, "sweeps.search.proposals.choose_sampler"):
        pick = pick_sampler(space, trials, seed=0, **settings)
    assert type(pick.sampler) is kind
    assert pick.reason.startswith(said)
    assert pick.reason in caplog.text


def test_anchors_are_the_neutral_vector_and_each_knob_alone():
    space = {"ratio": FloatRange(0.0, 0.9, 0.0), "bits": Choice((32, 8, 4), 32)}
    found = anchors(space, levels=2)
    assert found[0] == {"ratio": 0.0, "bits": 32}
    assert found[1:] == [
        {"ratio": 0.45, "bits": 32},
        {"ratio": 0.9, "bits": 32},
        {"ratio": 0.0, "bits": 8},
        {"ratio": 0.0, "bits": 4},
    ]


def test_anchors_take_fewer_strengths_before_they_take_too_much_of_the_budget():
    space = {f"k{i}": FloatRange(0.0, 1.0, 0.0) for i in range(4)}
    assert [len(anchors(space, most)) for most in (None, 13, 12, 5, 4, 1, 0)] == [13, 13, 9, 5, 1, 1, 1]


def test_anchors_together_are_the_middle_alone_then_in_pairs_then_the_rest():
    space = {"ratio": FloatRange(0.0, 0.9, 0.0), "keep": FloatRange(0.1, 1.0, 1.0), "bits": Choice((32, 8, 4, 2), 32)}
    found = [tuple(vector.values()) for vector in anchors(space, together=True)]
    assert found[1:4] == [(0.6, 1.0, 32), (0.0, 0.4, 32), (0.0, 1.0, 4)]
    assert found[4:7] == [(0.6, 0.4, 32), (0.6, 1.0, 4), (0.0, 0.4, 4)]
    assert set(found) >= {tuple(vector.values()) for vector in anchors(space)}
    assert len(found) == len(set(found)) == 13
    share = {0.6: 0.4, 0.4: 0.5, 4: 0.125}
    by_cost = anchors(space, together=True, cost=lambda v: math.prod(share.get(value, 1.0) for value in v.values()))
    assert [tuple(vector.values()) for vector in by_cost] == [*found[:4], found[5], found[6], found[4], *found[7:]]
    many = {f"k{i}": FloatRange(0.0, 1.0, 0.0) for i in range(5)}
    assert len(anchors(many, together=True)) == len(anchors(many)), "many knobs have too many pairs"
    assert [len(anchors(space, most, together=True)) for most in (13, 12)] == [13, 10]


def test_a_technique_that_cannot_be_left_out_stays_at_its_weakest():
    found = anchors({"ratio": FloatRange(0.1, 0.9, neutral=0.0), "bits": Choice((32, 8), 32)}, levels=1)
    assert found == [{"ratio": 0.1, "bits": 32}, {"ratio": 0.9, "bits": 32}, {"ratio": 0.1, "bits": 8}]
    assert anchors({"bits": Choice((8, 4, 2), 32)}, levels=3) == [{"bits": 8}, {"bits": 4}, {"bits": 2}]


def test_layers_of_one_technique_are_turned_together():
    bits = Choice((32, 8, 6, 5, 4, 3, 2), 32)
    space = {f"quantize.bits@conv{i}": bits for i in range(10)} | {"prune.ratio": FloatRange(0.0, 0.9, 0.0)}
    found = anchors(space, together=True)
    uniform = [vector for vector in found if vector["prune.ratio"] == 0.0]
    assert [{*vector.values()} for vector in uniform[1:]] == [{b, 0.0} for b in (5, 8, 6, 4, 3, 2)]
    assert len(found) == 1 + 6 + 3 + 1, "the neutral vector, the uniform ones, the other technique and the pair"
    other = {**space, "quantize.bits@head": Choice((8, 4), 8)}
    assert {"quantize.bits@head": 4} in [
        {name: value for name, value in vector.items() if value != space.get(name, other[name]).neutral}
        for vector in anchors(other)
    ], "a layer with other values is turned alone"


def test_screening_is_on_where_it_was_shown_to_win(caplog):
    def costs(params):
        return {"size": 1.0}

    with caplog.at_level(logging.INFO, "sweeps.search.proposals.choose_sampler"):
        assert screening_pays(Problem(MIXED, BOTH, static_costs=costs))
    assert "screening on" in caplog.text
    assert not screening_pays(Problem(FLAT, BOTH, static_costs=costs))
    assert screening_pays(Problem(MIXED, BOTH))
    names = {"op": Choice(("conv", "pool"), "conv")}
    assert not screening_pays(Problem(names, BOTH))
    assert screening_pays(Problem(names, BOTH, {"loss": 1.0}))
    assert screening_for(Problem(FLAT, BOTH)) is None
    assert screening_for(Problem(MIXED, BOTH)) == Screening(shortlist=None)
    assert screening_for(Problem(MIXED, BOTH, static_costs=costs)) == Screening(shortlist=8)


def test_seeds_differ_after_other_numbers_of_trials():
    assert len({seed_after(0, trials) for trials in range(50)} | {seed_after(1, 0)}) == 51
    assert seed_after(3, 7) == seed_after(3, 7)


@pytest.mark.parametrize(("told", "reason"), [("conditional", "some knobs depend"), ("separable", "independent TPE")])
def test_the_config_can_say_what_a_space_does_not_show(told, reason):
    given = yaml.safe_load((Path(conf.__file__).parent / "sampler" / "auto.yaml").read_text())
    experiment = tiny_experiment(plain={"sampler": {**given, told: True}})
    assert reason in describe_sampler(make_sampler(experiment, 0))
    assert "Gaussian process" in describe_sampler(make_sampler(tiny_experiment(plain={"sampler": given}), 0))
