import copy
import gc
import math
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from kmr.core import KMRError, NonFiniteReading, Reading, measure
from kmr.data import Split
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import (
    Accuracy,
    Agreement,
    CrossEntropy,
    KLDivergence,
    Predictions,
)
from kmr.representation.weights import Grid, strip_all
from kmr.tasks import Classification, TokenClassification

torch.set_num_threads(1)


class Shows(nn.Module):
    """Returns its inputs, and counts how often."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class Says(nn.Module):
    """Returns a function of its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def split(outputs, targets, batch_size=3):
    return Split((torch.tensor(outputs), torch.tensor(targets)), batch_size=batch_size)


LOGITS = [[2.0, 1, 0], [0, 2, 1], [1, 2, 0], [0, 1, 2]]
TARGETS = [0, 1, 0, 0]


def test_accuracy_by_hand():
    data = split(LOGITS, TARGETS)
    reading = Accuracy(data=data)(Shows())
    assert reading.value == 0.5
    assert reading.stderr == pytest.approx(math.sqrt(0.5 * 0.5 / 4))
    assert Accuracy(data=data, top_k=2)(Shows()).value == 0.75
    assert Accuracy(data=data, top_k=3)(Shows()) == Reading(1.0, 1 / 5)
    with pytest.raises(KMRError, match="top_k"):
        Accuracy(data=data, top_k=4)(Shows())


def test_dense_predictions_count_one_by_one_and_samples_are_independent():
    # Two samples of two places: hits (1, 1) and (0, 1).
    logits = torch.tensor([[[2.0, 0], [0, 2]], [[0.0, 0], [1, 1]]])
    targets = torch.tensor([[0, 1], [0, 1]])
    task = Classification()
    reading = Accuracy(data=Split((logits, targets), task=task))(Shows())
    assert reading.value == 0.75
    assert reading.stderr == pytest.approx(math.sqrt(((1 - 0.75) ** 2 + (0.5 - 0.75) ** 2) / 2 / 2))
    ignored = Accuracy(data=Split((logits, torch.tensor([[0, 1], [-100, 1]])), task=task))(Shows())
    assert ignored == Reading(1.0, 1 / 3)


def test_cross_entropy_by_hand():
    data = split([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]], [0, 0, 0])
    losses = torch.tensor([math.log(2), math.log(4 / 3), math.log(4)], dtype=torch.float64)
    reading = CrossEntropy(data=data)(Shows())
    assert reading.value == pytest.approx(float(losses.mean()))
    assert reading.stderr == pytest.approx(float(losses.std() / math.sqrt(3)))
    assert CrossEntropy(data=split([[0.0, 0.0]], [0]))(Shows()).stderr is None


def test_cross_entropy_leaves_out_what_torch_leaves_out():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 4, 6), torch.randint(0, 4, (5, 6))
    targets[2, 3:] = -100
    reading = CrossEntropy(data=Split((logits, targets), batch_size=2))(Shows())
    assert reading.value == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-6)


def test_agreement_by_hand():
    original = nn.Sequential(Shows(), nn.BatchNorm1d(3), nn.Dropout(0.9)).train()
    before = original[1].running_mean.clone()
    data = split(LOGITS, TARGETS)
    meter = Agreement(data=data, original=original)
    assert original.training
    assert torch.equal(original[1].running_mean, before)
    assert meter(Shows()) == Reading(1.0, 1 / 5)
    assert original[0].calls == 2
    assert meter(Shows()) == Reading(1.0, 1 / 5)
    assert original[0].calls == 2, "small outputs are kept"
    assert original.training
    assert torch.equal(original[1].running_mean, before)
    assert Agreement(data=data, original=Says(lambda x: -x))(Shows()).value == 0
    half = Says(lambda x: torch.where(x[:, :1] == x[0, 0], x, torch.tensor([9.0, 0, 0])))
    rows = torch.tensor(LOGITS)
    expected = float((half(rows).argmax(1) == rows.argmax(1)).double().mean())
    assert Agreement(data=Split((rows, torch.tensor(TARGETS)), 4), original=half)(Shows()).value == expected
    with pytest.raises(KMRError, match="the model has 3 classes, the original 2"):
        Agreement(data=data, original=Says(lambda x: x[:, :2]))(Shows())


def test_kept_predictions_die_with_their_original() -> None:
    data = Predictions.of(split(LOGITS, TARGETS))
    for sign in (1, -1) * 20:  # a new model often gets the address of one that is gone
        assert Agreement(data=data, original=Says(lambda x, sign=sign: sign * x))(Shows()).value == (sign == 1)
    gc.collect()
    assert len(data._references) == 0


def test_predictions_are_read_again_where_the_original_changed() -> None:
    data, original = split(LOGITS, TARGETS), nn.Linear(3, 3, bias=False)
    meter = Agreement(data=data, original=original)
    with torch.no_grad():
        original.weight.copy_(torch.eye(3))
        assert meter(Shows()).value == 1
        original.weight.neg_()
        assert meter(Shows()).value == 0


def test_a_large_original_runs_along(monkeypatch):
    monkeypatch.setattr("kmr.meters.original._KEPT", 1.0)
    original, data = Shows(), split(LOGITS, TARGETS)
    meters = [Agreement(data=data, original=original), KLDivergence(data=data, original=original)]
    for runs in (1, 2):
        assert measure(Shows(), meters)["kl"].value == 0
        assert original.calls == 2 * runs, "once for all meters of a pass"


def test_meters_of_one_split_share_one_pass():
    data = split(LOGITS, TARGETS, batch_size=2)
    original = Shows()
    meters = [
        Accuracy(data=data),
        Accuracy(data=data, top_k=2, name="top2"),
        CrossEntropy(data=Predictions.of(data)),
        Agreement(data=data, original=original),
    ]
    model = Shows()
    readings = measure(model, meters)
    assert model.calls == 2
    assert list(readings) == ["accuracy", "top2", "cross_entropy", "agreement"]
    measure(model, [*meters, Accuracy(data=split(LOGITS, TARGETS), name="other")])
    assert model.calls == 2 + 2 + 2


def test_predictions_are_shared_by_split_and_die_with_their_users():
    data = split(LOGITS, TARGETS)
    first = Predictions.of(data)
    assert Predictions.of(data) is first
    assert Predictions.of(first) is first
    assert Predictions.of(split(LOGITS, TARGETS)) is not first
    gone = weakref.ref(data)
    del data, first
    gc.collect()
    assert gone() is None
    assert not any(predictions.split is None for predictions in Predictions._live.values())
    with pytest.raises(KMRError, match="not list"):
        Accuracy(data=[1, 2])


def test_outputs_come_in_the_order_of_the_split():
    data = split(LOGITS, TARGETS, batch_size=3)
    seen = list(Predictions(data)(Shows()))
    assert [row for batch in seen for row in batch.scores.logits.tolist()] == LOGITS
    assert [target for batch in seen for target in batch.scores.targets.tolist()] == TARGETS
    assert not any(batch.scores.logits.requires_grad for batch in seen)


class Ragged(torch.utils.data.Dataset):
    """Sequences of 1, 1, 2 and 2 tokens of 3 classes, all right but the last token."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        targets = torch.full((1 + index // 2,), index % 3)
        logits = torch.nn.functional.one_hot(targets, 3).float()
        return logits, torch.where(
            torch.arange(len(targets)) == 1, (targets + 1) % 3 if index == 3 else targets, targets
        )


def test_batches_may_differ_in_length():
    reading = Accuracy(data=Split(Ragged(), batch_size=2, task=TokenClassification()))(Shows())
    assert reading.value == 5 / 6
    # Deviations of (hits, tokens): (1, 1), (1, 1), (2, 2), (1, 2) from 5/6 of the tokens.
    assert reading.stderr == pytest.approx(math.sqrt(1 / 36 + 1 / 36 + 4 / 36 + 16 / 36) / 6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (split([[1.0], [2]], [0, 5]), "fit more than one task, or none"),
        (split([1.0, 2], [0, 2]), r"Classification .more outputs"),
        (split(LOGITS, [0.0, 1, 0, 0]), "class numbers"),
        (split(LOGITS, [[0, 0], [1, 1], [0, 0], [0, 0]]), "class numbers of shape"),
        (split(LOGITS, [0, 1, 0, 3]), "contain 3; the model has 3 classes, numbered 0 to 2"),
        (split(LOGITS, [0, 1, 0, -1]), "task.ignore_index=-1"),
        (split(LOGITS, [-100] * 4), "all targets of the split are ignored"),
    ],
)
def test_what_cannot_be_scored_is_refused(data, message):
    for meter in (Accuracy(data=data), CrossEntropy(data=data)):
        with pytest.raises(KMRError, match=message):
            meter(Shows())


def test_a_diverged_model_has_no_reading():
    data = split([[math.nan, 1.0], [0, 1]], [0, 1])
    for meter in (Accuracy(data=data), CrossEntropy(data=data)):
        with pytest.raises(NonFiniteReading):
            meter(Shows())
    # A forbidden class, by a logit of −∞, is no divergence.
    assert Accuracy(data=split([[-math.inf, 1.0], [1, 0]], [1, 0]))(Shows()).value == 1


def test_a_pass_computes_a_grid_once_and_reads_the_same(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    split = Split((torch.randn(40, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator)), 4)
    model = WeightQuantization()(nn.Linear(6, 3).eval(), "quantize.bits", 4)
    computed = []
    forward = Grid.forward
    monkeypatch.setattr(Grid, "forward", lambda grid, weight: computed.append(grid) or forward(grid, weight))
    plain = strip_all(copy.deepcopy(model))
    computed.clear()
    value = CrossEntropy(data=split)(model).value
    assert value == CrossEntropy(data=split)(plain).value
    assert 1 <= len(computed) <= 3  # not for each of the ten batches
    assert parametrize.is_parametrized(model, "weight")
