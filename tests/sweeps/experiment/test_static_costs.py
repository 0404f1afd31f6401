"""What is known before training: exact costs, equal keys for equal models, and nothing trained to know them."""

import pytest
import torch
from tiny import Half, Halve, Total, tiny_experiment

from kmr.core import Move, NotApplicable, TransformationSequence, run_sequence
from sweeps.experiment.static_costs import Statics


def moves(*pairs: tuple[str, float]) -> TransformationSequence:
    return TransformationSequence(tuple(Move(knob, value) for knob, value in pairs))


def test_static_costs_are_those_of_the_model_the_moves_make() -> None:
    experiment = tiny_experiment()
    statics = experiment.compression.statics
    for params in ({"first.by": 0.25, "second.by": 0.0}, {"first.by": 0.5, "second.by": 0.75}):
        run = run_sequence(experiment.model, experiment.instantiation, moves(*params.items()))
        assert statics.costs(params) == {"total": run.trace.accepted[-1].costs["total"].value}


def test_vectors_that_leave_the_same_model_have_one_key_and_others_have_not() -> None:
    statics = tiny_experiment(rules=(Half(name="first"), Halve(name="second"))).compression.statics
    rounded, same, more = (statics.key({"first.by": by, "second.by": 0.0}) for by in (0.5, 0.55, 0.9))
    assert rounded == same, "both round to a half"
    assert rounded != more
    nothing = statics.key({"first.by": 0.1, "second.by": 0.0})
    assert nothing == statics.key({"first.by": 0.0, "second.by": 0.0}), "a stage that changes nothing is none"


def test_a_rule_that_trains_is_not_asked_beforehand() -> None:
    asked = []

    class Trains(Halve):
        trains = True

        def apply(self, model, knob, value):
            asked.append(value)
            return super().apply(model, knob, value)

    statics = tiny_experiment(rules=(Halve(name="first"), Trains(name="second"))).compression.statics
    assert statics.costs({"first.by": 0.5, "second.by": 0.5}) == {}
    assert statics.costs({"first.by": 0.5, "second.by": 0.0}) != {}
    assert asked == []
    one, other = (statics.key({"first.by": 0.5, "second.by": by}) for by in (0.5, 0.6))
    assert one != other


def test_a_recovery_is_left_out_of_the_costs_and_told_apart_in_the_key() -> None:
    class Recovers(Halve):
        recovers = True

        def apply(self, model, knob, value):
            raise AssertionError("it is not asked")

    statics = tiny_experiment(rules=(Halve(name="first"), Recovers(name="second"))).compression.statics
    with_it, without = {"first.by": 0.5, "second.by": 0.5}, {"first.by": 0.5, "second.by": 0.0}
    assert statics.costs(with_it) == statics.costs(without) != {}
    assert statics.key(with_it) != statics.key(without)
    assert statics.key(with_it) != statics.key({"first.by": 0.5, "second.by": 0.75})


@pytest.mark.parametrize("error", [NotApplicable("no"), ValueError("broken")])
def test_a_rule_that_fails_leaves_the_vector_to_its_trial(error: Exception) -> None:
    class Fails(Halve):
        def apply(self, model, knob, value):
            raise error

    statics = tiny_experiment(rules=(Halve(name="first"), Fails(name="second"))).compression.statics
    assert statics.costs({"first.by": 0.5, "second.by": 0.5}) == {}
    assert statics.key({"first.by": 0.5, "second.by": 0.5}) != statics.key({"first.by": 0.5, "second.by": 0.6})


def test_shared_beginnings_are_made_once_and_memory_is_bounded() -> None:
    made = []

    class Counted(Halve):
        def apply(self, model, knob, value):
            made.append((self.name, value))
            return super().apply(model, knob, value)

    experiment = tiny_experiment(rules=(Counted(name="first"), Counted(name="second")))
    statics = experiment.compression.statics
    for by in (0.1, 0.2, 0.3):
        statics.costs({"first.by": 0.5, "second.by": by})
    assert made.count(("first", 0.5)) == 1
    small = Statics(experiment.model, experiment.instantiation, {"total"}, most_bytes=1)
    for by in (0.1, 0.2, 0.3):
        small.costs({"first.by": 0.5, "second.by": by})
    assert len(small._kept) == 1
    assert small.costs({"first.by": 0.5, "second.by": 0.2}) == statics.costs({"first.by": 0.5, "second.by": 0.2})


def test_the_base_model_is_left_as_it_is() -> None:
    experiment = tiny_experiment()
    before = [parameter.clone() for parameter in experiment.model.parameters()]
    experiment.compression.statics.costs({"first.by": 0.5, "second.by": 0.5})
    assert all(torch.equal(a, b) for a, b in zip(before, experiment.model.parameters(), strict=True))


def test_costs_that_are_no_objective_and_no_limit_are_not_read() -> None:
    experiment = tiny_experiment(costs=(Total(name="total"), Total(name="other")))
    assert experiment.compression.statics.names == ("total",)
