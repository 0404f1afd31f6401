"""Regression meters by hand and against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import r2_score
from torch import nn

from kmr.core import KMRError, NonFiniteReading, Reading
from kmr.data import Split
from kmr.meters import R2, MeanAbsoluteError, MeanSquaredError

torch.set_num_threads(1)


class Shows(nn.Module):
    """Returns its inputs."""

    def forward(self, x):
        return x


def split(outputs, targets, batch_size=3):
    return Split((torch.tensor(outputs), torch.tensor(targets)), batch_size=batch_size)


def test_r2_by_hand_and_by_scikit_learn():
    reading = R2(data=split([[1.0], [2], [3], [5]], [1.0, 2, 3, 4]))(Shows())
    assert reading.value == pytest.approx(1 - 1 / 5)
    torch.manual_seed(0)
    targets = torch.randn(40, 2).double()
    outputs = targets + torch.randn(40, 2) * 0.5
    pooled = R2(data=Split((outputs, targets), batch_size=7))(Shows())
    expected = r2_score(targets.numpy(), outputs.numpy(), multioutput="variance_weighted")
    assert pooled.value == pytest.approx(expected)
    left = torch.tensor(
        [
            r2_score(
                targets[torch.arange(40) != i].numpy(),
                outputs[torch.arange(40) != i].numpy(),
                multioutput="variance_weighted",
            )
            for i in range(40)
        ]
    )
    assert pooled.stderr == pytest.approx(float(((left - left.mean()).square().sum() * 39 / 40).sqrt()))


def test_r2_where_it_or_its_error_is_undefined():
    with pytest.raises(KMRError, match="all targets of the split are the same"):
        R2(data=split([[1.0], [2]], [3.0, 3]))(Shows())
    assert R2(data=split([[1.0], [2]], [1.0, 2]))(Shows()) == Reading(1.0)
    assert R2(data=split([[1.0], [2], [2]], [1.0, 2, 2]))(Shows()) == Reading(1.0)


def test_mean_squared_error_by_hand():
    reading = MeanSquaredError(data=split([[1.0], [2], [3]], [1.0, 3, 5]))(Shows())
    assert reading.value == pytest.approx(5 / 3)
    assert reading.stderr == pytest.approx(torch.tensor([0.0, 1, 4]).std().item() / math.sqrt(3))
    several = MeanSquaredError(data=split([[1.0, 1], [2, 2]], [[1.0, 3], [2, 2]]))(Shows())
    assert several.value == 1
    with pytest.raises(KMRError, match="do not fit"):
        MeanSquaredError(data=split([[1.0, 2], [3, 4]], [1.5, 2]))(Shows())


def test_mean_absolute_error_by_hand():
    reading = MeanAbsoluteError(data=split([[1.0], [2], [3]], [1.0, 3, 5]))(Shows())
    assert reading.value == pytest.approx(1)
    assert reading.stderr == pytest.approx(torch.tensor([0.0, 1, 2]).std().item() / math.sqrt(3))
    assert MeanAbsoluteError(data=split([[1.0, 1]], [[1.0, 3]]))(Shows()) == Reading(1.0)


@pytest.mark.parametrize("kind", [MeanSquaredError, MeanAbsoluteError])
def test_a_diverged_model_has_no_error(kind):
    with pytest.raises(NonFiniteReading):
        kind(data=split([[math.inf], [1.0]], [0.0, 1]))(Shows())
