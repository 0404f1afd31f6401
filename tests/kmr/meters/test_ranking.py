"""Areas under ROC curves against scikit-learn, and neighbours of embeddings by hand."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.meters import AUROC, RecallAtK
from kmr.tasks import Embedding, MultiLabel, Segmentation

torch.set_num_threads(1)


class Shows(nn.Module):
    def forward(self, x):
        return x


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_classes_are_one_area():
    logits, targets = drawn(101, 2), (drawn(101, seed=1) > 0).long()
    found = AUROC(data=Split((logits, targets), batch_size=7))(Shows())
    expected = roc_auc_score(targets, logits.softmax(1)[:, 1])
    assert found.value == pytest.approx(expected)


def test_ties_count_half():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    found = AUROC(data=Split((logits, torch.tensor([0, 1, 1, 0]))))(Shows())
    assert found.value == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("absent", [False, True])
def test_several_classes_are_averaged_one_against_the_rest(absent):
    logits, targets = drawn(90, 4), torch.arange(90) % (3 if absent else 4)
    scores = logits.double().softmax(1)
    each = [roc_auc_score(targets == c, scores[:, c]) for c in range(3 if absent else 4)]
    assert AUROC(data=Split((logits, targets)))(Shows()).value == pytest.approx(sum(each) / len(each))


def test_labels_that_are_not_known_do_not_count():
    logits, targets = drawn(60, 2), (drawn(60, 2, seed=1) > 0).long()
    targets[:20, 0] = -100
    found = AUROC(data=Split((logits, targets), task=MultiLabel()))(Shows())
    each = [roc_auc_score(targets[20:, 0], logits[20:, 0]), roc_auc_score(targets[:, 1], logits[:, 1])]
    assert found.value == pytest.approx(sum(each) / 2)


def test_the_standard_error_is_the_spread_over_samples():
    values, errors = [], []
    for seed in range(200):
        targets = torch.arange(80) % 2
        logits = torch.stack([torch.zeros(80), drawn(80, seed=seed) + targets], 1)
        found = AUROC(data=Split((logits, targets)))(Shows())
        values.append(found.value)
        errors.append(found.stderr)
    spread = torch.tensor(values).std()
    assert torch.tensor(errors).mean() == pytest.approx(float(spread), rel=0.15)


def test_an_area_needs_one_class_a_sample_and_both_kinds():
    with pytest.raises(KMRError, match="no class has samples both in it and out of it"):
        AUROC(data=Split((drawn(4, 2), torch.zeros(4, dtype=torch.long))))(Shows())
    with pytest.raises(KMRError, match="several targets a sample"):
        AUROC(data=Split((drawn(4, 3, 2, 2), torch.zeros(4, 2, 2, dtype=torch.long)), task=Segmentation()))(Shows())


def test_recall_counts_samples_with_one_of_their_kind_near():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.05], [0.0, -1.0]])
    targets = torch.tensor([0, 0, 1, 0, 1, 7])  # nothing is like the last
    data = Split((vectors, targets), batch_size=4, task=Embedding())
    # The nearest of 0 is 4, of 1 is 4, of 2 is 3, of 3 is 2, of 4 is 0 or 1; the second of 0 is 1, and of 3 it is 1.
    assert RecallAtK(data=data)(Shows()).value == 0.0
    assert RecallAtK(data=data, k=2)(Shows()).value == pytest.approx(3 / 5)
    assert RecallAtK(data=data, k=100)(Shows()).value == 1.0


def test_a_sample_drawn_twice_is_not_its_own_neighbour():
    meter = RecallAtK(data=Split((drawn(6, 3), torch.arange(6) // 2), task=Embedding()))
    from kmr.meters.predictions import statistics_of

    rows = statistics_of(Shows(), [meter])["recall_at_k"].rows
    twice = rows[[0, 0, 2, 2, 3]]
    assert meter.value(twice) == pytest.approx(meter.value(rows[[0, 2, 3]]), abs=0.5)
    with pytest.raises(KMRError, match="no two samples have the same target"):
        meter.value(rows[[0, 0, 0]])


def test_neighbours_need_targets_and_a_number_of_them():
    with pytest.raises(KMRError, match="needs one number for each sample"):
        RecallAtK(data=Split((drawn(4, 3), None), task=Embedding()))(Shows())
    with pytest.raises(KMRError, match="k must be at least 1, not 0"):
        RecallAtK(data=Split((drawn(4, 3), torch.arange(4)), task=Embedding()), k=0)
