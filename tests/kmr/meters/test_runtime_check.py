import math

import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.meters.runtime_check import check
from kmr.runtimes import Eager
from kmr.runtimes.runtime import Session


class Gives(Session):
    """Returns rows of a table, by the number that is the input."""

    def __init__(self, table):
        super().__init__(1)
        self.table = torch.tensor(table)

    def bind(self, inputs):
        return lambda: self(inputs)

    def __call__(self, inputs):
        return self.table[inputs]


def test_accuracies_and_agreement_by_hand():
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    split = Split((torch.arange(4), torch.zeros(4, dtype=torch.long)), 3)
    found = check(Gives([right, right, right, wrong]), Gives([right, right, wrong, right]), split, tolerance=0.0)
    assert (found.samples, found.model, found.artifact, found.agreement) == (4, 0.75, 0.75, 0.5)
    assert found.difference == 0
    assert found.passed
    assert found.model_stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    worse = check(Gives([right] * 4), Gives([right, right, right, wrong]), split, tolerance=0.2)
    assert worse.difference == -0.25
    assert not worse.passed
    assert "outside the tolerance of 0.2" in str(worse)


def test_other_targets_are_held_by_the_relative_error():
    split = Split((torch.arange(2), torch.zeros(2, 2)), 2)
    found = check(Gives([[3.0, 0.0], [0.0, 4.0]]), Gives([[3.0, 0.0], [0.0, 4.5]]), split)
    assert found.difference == pytest.approx(0.1)
    assert not found.passed
    assert "2 samples" in str(found)


def test_what_cannot_be_compared_is_refused():
    split = Split((torch.arange(2), torch.zeros(2, 2)), 2)
    with pytest.raises(KMRError, match="shape"):
        check(Gives([[3.0], [0.0]]), Gives([[3.0, 0.0], [0.0, 4.5]]), split)
    with pytest.raises(KMRError, match="tolerance"):
        check(Gives([[3.0]]), Gives([[3.0]]), split, tolerance=-1)


def test_rounding_that_decides_between_ties_is_no_difference() -> None:
    class Ties(nn.Linear):
        def __init__(self, by: float) -> None:
            super().__init__(3, 2)
            self.by = by

        def forward(self, x):
            first = super().forward(x)[:, :1] + 2
            return torch.cat([first, first + self.by], 1)

    split = Split((torch.randn(64, 3), torch.zeros(64, dtype=torch.long)))
    model, other, wrong = (Ties(by).eval() for by in (-1e-6, 1e-6, 0.1))
    for twin in (other, wrong):
        twin.load_state_dict(model.state_dict())
    ours = Eager().prepare(model, split.first_inputs())
    assert check(ours, Eager().prepare(other, split.first_inputs()), split).passed
    assert not check(ours, Eager().prepare(wrong, split.first_inputs()), split).passed
