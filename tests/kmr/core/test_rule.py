import pytest
import torch
from toy import Jitter, Numbers, Scale

from kmr.core import KMRError


def test_a_rule_leaves_the_model_it_is_given_alone() -> None:
    model = Numbers(1.0, 2.0)
    moved = Scale()(model, "scale.by", 0.25)
    assert model.values.tolist() == [1.0, 2.0]
    assert moved.values.tolist() == [0.75, 2.0]


def test_a_rule_depends_on_its_seed_and_not_on_the_state_of_the_generators() -> None:
    torch.manual_seed(1)
    first = Jitter(seed=3)(Numbers(0.0, 0.0), "jitter.size", 1.0)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    torch.rand(5)
    again = Jitter(seed=3)(Numbers(0.0, 0.0), "jitter.size", 1.0)
    other = Jitter(seed=4)(Numbers(0.0, 0.0), "jitter.size", 1.0)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state()), "a rule must leave the generators as it found them"


def test_the_neutral_value_gives_an_equal_model_that_is_a_copy() -> None:
    model = Numbers(1.0, 2.0)
    same = Scale()(model, "scale.by", 0.0)
    assert same is not model
    assert torch.equal(same.values, model.values)


def test_a_wrong_knob_or_value_is_refused_by_name() -> None:
    with pytest.raises(KMRError, match=r"no knob other: choose scale\.by"):
        Scale()(Numbers(1.0), "other", 0.5)
    with pytest.raises(KMRError, match=r"scale\.by cannot be 3"):
        Scale()(Numbers(1.0), "scale.by", 3.0)
