"""Faithfulness meters against closed forms and scipy."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from kmr.core import KMRError, measure
from kmr.data import Split
from kmr.meters import (
    AccuracyDegradationFactor,
    ChiSquaredP,
    ExpectedCalibrationError,
    KLDivergence,
    WorstClassAccuracy,
    WorstGroupAccuracy,
)

torch.set_num_threads(1)


class Shows(nn.Module):
    def forward(self, x):
        return x


class Said(nn.Module):
    """Returns fixed outputs for one batch."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs[: len(x)]


def read(meter_class, logits, targets=None, original=None, **settings):
    logits = torch.as_tensor(logits, dtype=torch.float32)
    targets = torch.zeros(len(logits), dtype=torch.long) if targets is None else torch.as_tensor(targets)
    if original is not None:
        settings["original"] = Said(torch.as_tensor(original, dtype=torch.float32))
    return meter_class(data=Split((logits, targets), 100), **settings)(Shows())


def sure(classes, of):
    return 10 * torch.nn.functional.one_hot(torch.as_tensor(classes), of).float()


def test_kl_by_hand():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    expected = float((p * (p / q).log()).sum())
    reading = read(KLDivergence, [q.log().tolist(), p.log().tolist()], original=[p.log().tolist()] * 2)
    assert reading.value == pytest.approx(expected / 2, rel=1e-6)
    assert reading.stderr == pytest.approx(expected / 2 / math.sqrt(2), rel=1e-6)
    dense = torch.randn(3, 4, 5)
    assert read(KLDivergence, dense, torch.zeros(3, 5, dtype=torch.long), original=dense).value == 0.0


def test_chi_squared_of_two_classes_is_mcnemar():
    original = [0] * 30 + [1] * 30
    model = [0] * 18 + [1] * 12 + [1] * 27 + [0] * 3
    reading = read(ChiSquaredP, sure(model, 2), original=sure(original, 2))
    assert reading.value == pytest.approx(stats.chi2.sf((12 - 3) ** 2 / 15, 1))


def test_chi_squared_sums_over_the_pairs_that_changed():
    pairs = {(0, 1): 9, (1, 0): 2, (1, 2): 5, (2, 1): 5, (0, 0): 20}
    original = [i for (i, _), count in pairs.items() for _ in range(count)]
    model = [j for (_, j), count in pairs.items() for _ in range(count)]
    reading = read(ChiSquaredP, sure(model, 4), original=sure(original, 4))
    assert reading.value == pytest.approx(stats.chi2.sf(49 / 11 + 0, 2))
    assert read(ChiSquaredP, sure(original, 4), original=sure(original, 4)).value == 1.0


def test_the_originals_outputs_must_fit():
    with pytest.raises(KMRError, match="3 classes, the original 2"):
        read(KLDivergence, sure([0], 3), original=sure([0], 2))


def test_calibration_error_by_hand():
    # Confidence 0.9 and 0.9 with one hit: gap |1 − 1.8| of two; confidence 0.6 and a hit: gap 0.4 of one.
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]).log()
    reading = read(ExpectedCalibrationError, logits, [0, 1, 0], bins=10)
    assert reading.value == pytest.approx((abs(1 - 1.8) + 0.4) / 3, rel=1e-5)
    with pytest.raises(KMRError, match="bins"):
        read(ExpectedCalibrationError, logits, [0, 1, 0], bins=0)


def test_worst_class_of_those_that_occur():
    reading = read(WorstClassAccuracy, sure([0, 0, 0, 1, 2, 2, 1], 4), [0, 0, 1, 1, 2, 2, -100])
    assert reading.value == 0.5
    assert reading.stderr == pytest.approx(math.sqrt(0.25 / 2))


def test_degradation_counts_the_halvings_that_hold():
    # Accuracy 7/8 of all; on halves 1 and 3/4; on quarters 1/2 at worst.
    hits = torch.tensor([1, 1, 1, 1, 1, 1, 0, 1])
    meter = {"drop": 0.2, "fewest": 2}
    reading = read(AccuracyDegradationFactor, sure(1 - hits, 2), [0] * 8, **meter)
    assert reading.value == 1.0
    assert read(AccuracyDegradationFactor, sure([0] * 8, 2), [0] * 8, **meter).value == 2.0
    with pytest.raises(KMRError, match="drop"):
        read(AccuracyDegradationFactor, sure([0], 2), [0], drop=2.0)


def test_profile_takes_the_worst_block():
    data = Split((torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)), 1)
    meter = AccuracyDegradationFactor(data=data, fewest=2)
    assert meter.profile(torch.tensor([[hit, 1.0] for hit in (1, 1, 1, 1, 1, 1, 0, 1)])) == [7 / 8, 3 / 4, 1 / 2]


def test_all_share_one_pass():
    class Counts(Shows):
        calls = 0

        def forward(self, x):
            Counts.calls += 1
            return x

    split = Split((torch.randn(4, 3), torch.zeros(4, dtype=torch.long)), 4)
    original = Said(torch.randn(4, 3))
    meters = [KLDivergence(data=split, original=original), ChiSquaredP(data=split, original=original)]
    meters += [ExpectedCalibrationError(data=split), WorstClassAccuracy(data=split)]
    assert set(measure(Counts(), meters)) == {"kl", "chi_squared_p", "ece", "worst_class_accuracy"}
    assert Counts.calls == 1


def test_the_profile_of_a_model_is_read_as_it_evaluates():
    inputs = torch.tensor([[1.0], [1.0], [1.0], [-1.0]])
    split = Split((inputs, torch.tensor([1, 1, 1, 1])), 3)
    model = nn.Sequential(nn.Dropout(1.0), nn.Linear(1, 2)).train()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model[1].bias.zero_()
    meter = AccuracyDegradationFactor(data=split, fewest=1)
    assert meter.profile_of(model) == [3 / 4, 1 / 2, 0.0]
    assert model.training


def test_the_worst_group_is_the_worst_of_the_accuracies_of_the_subgroups():
    logits = torch.eye(2)[[0, 0, 1, 1, 0, 0, 0]]
    targets = torch.tensor([0, 1, 1, 1, 0, 0, 1])
    data = Split((logits, targets), batch_size=3, subgroups=[4, 4, 4, 9, 9, 9, 9])
    found = WorstGroupAccuracy(data=data)(Shows())
    assert found.value == pytest.approx(2 / 3)
    assert found.stderr == pytest.approx(math.sqrt(2 / 9 / 3))
    first = WorstGroupAccuracy(data=data.subset(5))(Shows())
    assert first.value == pytest.approx(2 / 3)
    alike = WorstGroupAccuracy(data=Split((logits, logits.argmax(1)), subgroups=[0, 0, 0, 1, 1, 1, 1]))(Shows())
    assert (alike.value, alike.stderr) == (1.0, 1 / 4)


def test_the_worst_group_needs_subgroups_of_the_same_length():
    logits, targets = torch.eye(2), torch.tensor([0, 1])
    with pytest.raises(KMRError, match="needs the subgroup of each sample"):
        WorstGroupAccuracy(data=Split((logits, targets)))(Shows())
    with pytest.raises(KMRError, match="subgroups must have one number for each of 2 samples"):
        Split((logits, targets), subgroups=[1, 2, 3])
    assert Split((logits, targets), subgroups=[1, 2]).fingerprint() != Split((logits, targets)).fingerprint()
