"""Every clause of a policy's contract is broken once, and found."""

import random
from collections.abc import Mapping

import pytest
from torch import nn
from toy import Numbers, Scale, toy

from kmr.core import Budget, Domain, Instantiation, Move, Policy, Readings
from kmr.policies import RandomPolicy, Scheduled
from kmr.testing import check_policy


class Listed(Policy):
    """Proposes moves in turn, whatever the space."""

    moves = (Move("one.by", 0.5), Move("two.by", 0.5))

    def __init__(self, instantiation: Instantiation, budget: Budget, space: Mapping[str, Domain] | None) -> None:
        self.left = list(self.moves)

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        return self.left.pop(0) if self.left else None


class Stranger(Listed):
    moves = (Move("three.by", 0.5),)


class Outside(Listed):
    moves = (Move("one.by", 2.0),)


class Neutral(Listed):
    moves = (Move("one.by", 0.0),)


class Stubborn(Listed):
    moves = (Move("one.by", 0.5), Move("one.by", 0.5))


class Endless(Listed):
    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        self.left.append(self.left[0])
        return Move("one.by", 1 - 1 / (1 + len(self.left)))


class Touches(Listed):
    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        next(iter(model.parameters())).data.mul_(0.9)
        return super().__call__(model, costs, qualities)


class Unseeded(Listed):
    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        return Move("one.by", random.SystemRandom().random())


class Fails(Listed):
    def refuse(self, move: Move) -> None:
        raise RuntimeError("no")


BROKEN = {
    Stranger: "three.by=0.5: no such knob in the search space: one.by, two.by",
    Outside: r"one.by=2.0: the domain is \[-1.0, 1.0\]",
    Neutral: "one.by=0.0: the neutral value",
    Stubborn: "one.by=0.5: it was refused for this model",
    Endless: "1000 moves were refused",
    Touches: "changes the model or the process: tensor values",
    Unseeded: "two policies with the same arguments propose",
    Fails: "a refusal raised RuntimeError: no",
    Listed: "two.by=0.5: no such knob in the search space: one.by$",
}


@pytest.mark.parametrize("made", BROKEN, ids=lambda made: made.__name__)
def test_a_broken_policy_is_found_and_named(made: type[Listed]) -> None:
    parts = toy(Scale(name="one"), Scale(name="two", index=1))
    with pytest.raises(AssertionError, match=f"^policy {made.__name__}(:|,) .*{BROKEN[made]}"):
        check_policy(made, parts, Numbers(4.0, 4.0))


@pytest.mark.parametrize("made", [Scheduled, RandomPolicy])
def test_a_policy_that_keeps_its_contract_passes(made: type[Policy]) -> None:
    model = Numbers(4.0, 4.0)
    check_policy(made, toy(Scale(name="one"), Scale(name="two", index=1)), model)
    assert model.values.tolist() == [4.0, 4.0]
