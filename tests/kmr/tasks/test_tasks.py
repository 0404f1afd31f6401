"""Tasks against torch and closed forms: losses, layouts, and what is kept of predictions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading, measure
from kmr.data import Split
from kmr.meters import F1, Accuracy, CosineSimilarity, CrossEntropy, IoU, MeanSquaredError, Perplexity
from kmr.tasks import (
    CausalLM,
    Classification,
    Detection,
    Embedding,
    MaskedLM,
    MultiLabel,
    Regression,
    Segmentation,
    TaskLoss,
    TokenClassification,
    Weighted,
    bound_loss,
)

torch.manual_seed(0)
TOKENS = torch.randint(0, 6, (3, 5))
LOGITS = torch.randn(3, 5, 6)


class Shows(nn.Module):
    def forward(self, x):
        return x


def test_token_logits_have_classes_last_and_images_have_them_second() -> None:
    expected = F.cross_entropy(LOGITS.reshape(-1, 6), TOKENS.reshape(-1))
    torch.testing.assert_close(TokenClassification().loss(LOGITS, TOKENS), expected)
    torch.testing.assert_close(Classification().loss(LOGITS.transpose(1, 2), TOKENS), expected)
    torch.testing.assert_close(Classification(class_axis=-1).loss(LOGITS, TOKENS), expected)
    torch.testing.assert_close(MaskedLM().loss(LOGITS, TOKENS), expected)
    masks, images = torch.randint(0, 3, (2, 4, 4)), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(Segmentation().loss(images, masks[:, None]), F.cross_entropy(images, masks))
    coarse = torch.randn(2, 3, 2, 2)
    enlarged = F.interpolate(coarse, size=(4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(Segmentation(resize=True).loss(coarse, masks), F.cross_entropy(enlarged, masks))


def test_as_many_classes_as_places_are_read_along_the_axis_of_the_task() -> None:
    logits = F.one_hot(torch.randint(0, 5, (4, 5)), 5).float()
    targets = logits.argmax(-1)
    assert Accuracy(data=Split((logits, targets), task=TokenClassification()))(Shows()).value == 1
    assert Accuracy(data=Split((logits.transpose(1, 2), targets), task=Classification()))(Shows()).value == 1
    with pytest.raises(KMRError, match=r"TokenClassification for logits .n, length, classes."):
        Accuracy(data=Split((logits, targets)))(Shows())


def test_a_causal_model_predicts_the_next_token_and_leaves_padding_out() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    inputs, targets = CausalLM().prepare({"input_ids": TOKENS, "attention_mask": mask}, None)
    again = CausalLM().prepare(inputs, targets)[1]
    assert torch.equal(again, targets)
    losses = F.cross_entropy(LOGITS[:, :-1].transpose(1, 2), TOKENS[:, 1:], reduction="none")
    counted = mask[:, 1:] == 1
    expected = losses[counted].mean()
    torch.testing.assert_close(CausalLM().loss(LOGITS, targets), expected)
    split = Split(({"x": LOGITS, "input_ids": TOKENS, "attention_mask": mask}, TOKENS), 2, task=CausalLM())
    model = Names()
    readings = measure(model, [CrossEntropy(data=split), Perplexity(data=split)])
    assert readings["cross_entropy"].value == pytest.approx(float(expected), rel=1e-6)
    assert readings["perplexity"].value == pytest.approx(float(expected.exp()), rel=1e-6)
    shifted = CausalLM(shifted=True)
    torch.testing.assert_close(shifted.loss(LOGITS, TOKENS), TokenClassification().loss(LOGITS, TOKENS))


class Names(nn.Module):
    def forward(self, x, input_ids, attention_mask):
        return type("Output", (), {"logits": x})()


def test_class_weights_smoothing_and_ignored_targets_are_those_of_torch() -> None:
    logits, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 255, 1, 0])
    task = Classification(class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1, ignore_index=255)
    expected = F.cross_entropy(
        logits, targets, weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1, ignore_index=255
    )
    torch.testing.assert_close(task.loss(logits, targets), expected)
    assert len(task.scores(logits, targets).targets) == 5
    with pytest.raises(KMRError, match=r"task\.ignore_index=255"):
        Classification().loss(logits, targets)
    with pytest.raises(KMRError, match="class_weights has 2 numbers, the model 3 classes"):
        Classification(class_weights=[1.0, 2.0]).loss(logits, targets)


def test_probabilities_of_classes_train_and_count_by_their_largest() -> None:
    logits, soft = torch.randn(4, 3), torch.softmax(torch.randn(4, 3), 1)
    torch.testing.assert_close(Classification().loss(logits, soft), F.cross_entropy(logits, soft))
    reading = Accuracy(data=Split((logits, soft)))(Shows())
    assert reading.value == float((logits.argmax(1) == soft.argmax(1)).double().mean())
    with pytest.raises(KMRError, match="neither class numbers nor probabilities"):
        Classification().loss(logits, soft * 2)


def test_sample_weights_weigh_losses_and_meters() -> None:
    logits, targets, weights = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 0.0, 2.0, 1.0])
    each = F.cross_entropy(logits, targets, reduction="none")
    expected = (each * weights).sum() / 4
    torch.testing.assert_close(Classification().loss(logits, Weighted(targets, weights)), expected)
    split = Split((logits, {"labels": targets, "weights": weights}), 3, task=Classification())
    readings = measure(Shows(), [CrossEntropy(data=split), Accuracy(data=split)])
    assert readings["cross_entropy"].value == pytest.approx(float(expected), rel=1e-6)
    hits = (logits.argmax(1) == targets).double()
    assert readings["accuracy"].value == pytest.approx(float((hits * weights).sum() / 4))
    numbers = Split((logits, {"labels": logits + 1, "weights": weights}), 3, task=Regression())
    assert MeanSquaredError(data=numbers)(Shows()).value == pytest.approx(1.0)


def test_several_labels_are_yes_or_no_each() -> None:
    logits, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3))
    expected = F.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(MultiLabel(label_weights=[1, 2, 3]).loss(logits, targets), expected)
    torch.testing.assert_close(
        MultiLabel().loss(logits[:, :1], targets[:, 0]),
        F.binary_cross_entropy_with_logits(logits[:, 0], targets[:, 0].float()),
    )
    unknown = torch.where(torch.arange(3) == 1, -100, targets)
    known = F.binary_cross_entropy_with_logits(logits[:, [0, 2]], targets[:, [0, 2]].float())
    torch.testing.assert_close(MultiLabel().loss(logits, unknown), known)
    with pytest.raises(KMRError, match="targets contain 2"):
        MultiLabel().loss(logits, targets + 1)


@pytest.mark.parametrize(
    ("outputs", "targets", "fits"),
    [
        ((4, 1), (4,), True),
        ((4,), (4, 1), True),
        ((4, 2, 3), (4, 2, 3), True),
        ((4, 6), (4, 2, 3), False),
        ((4, 2), (4,), False),
    ],
)
def test_regression_compares_shapes_and_does_not_count_them(outputs, targets, fits) -> None:
    one, other = torch.randn(outputs), torch.randn(targets)
    if fits:
        expected = F.mse_loss(one.reshape(other.shape), other)
        torch.testing.assert_close(Regression().loss(one, other), expected)
        assert MeanSquaredError(data=Split((one, other), 3))(Shows()).value == pytest.approx(float(expected), rel=1e-5)
        return
    with pytest.raises(KMRError, match=r"shape \(4, .*do not fit targets of shape \(4,"):
        Regression().loss(one, other)


def test_vectors_are_compared_with_the_originals() -> None:
    x = torch.randn(6, 4)
    split = Split((x, None), 4, task=Embedding())
    meter = CosineSimilarity(data=split, original=nn.Identity())
    assert meter(nn.Identity()).value == pytest.approx(1.0)
    expected = float(F.cosine_similarity(x, x.abs(), dim=1).mean())
    assert meter(Absolute()).value == pytest.approx(expected, rel=1e-5)
    with pytest.raises(KMRError, match="no loss without targets"):
        Embedding().loss(x, None)
    close = Embedding().loss(F.one_hot(torch.tensor([0, 0, 1, 1]), 4).float(), torch.tensor([5, 5, 7, 7]))
    mixed = Embedding().loss(F.one_hot(torch.tensor([0, 1, 0, 1]), 4).float(), torch.tensor([5, 5, 7, 7]))
    assert close < mixed


class Absolute(nn.Module):
    def forward(self, x):
        return x.abs()


def test_a_detector_takes_lists_and_computes_its_own_losses() -> None:
    targets = [{"boxes": torch.ones(1, 4), "labels": torch.ones(1)}] * 2
    images, aims = Detection().prepare((torch.ones(3, 4, 4), torch.ones(3, 5, 5)), targets)
    assert Detection().training_loss(Detector().train(), images, aims).item() == 2 + 2
    found = Detection().scores(Detection().outputs(Detection().call(Detector().eval(), images)), aims)
    assert [len(one["boxes"]) for one in found.outputs] == [1, 1]
    with pytest.raises(KMRError, match="boxes and labels"):
        Detection().prepare(images, torch.ones(2))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images, targets=None):
        if self.training:
            return {"boxes": self.scale * len(targets), "classes": self.scale * len(images)}
        return [{"boxes": torch.ones(1, 4), "labels": torch.ones(1), "scores": torch.ones(1)} for _ in images]


def test_a_model_that_diverged_is_told_apart_from_one_that_does_not_fit() -> None:
    for task, targets in ((Classification(), torch.zeros(2).long()), (Regression(), torch.zeros(2, 3))):
        with pytest.raises(NonFiniteReading):
            task.scores(torch.full((2, 3), torch.nan), targets)


def test_counts_of_classes_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, targets = torch.randn(60, 4), torch.randint(0, 4, (60,))
    guess = logits.argmax(1)
    split = Split((logits, targets), 7)
    for average in ("macro", "micro", "weighted"):
        expected = metrics.f1_score(targets, guess, average=average)
        assert F1(data=split, average=average)(Shows()).value == pytest.approx(expected)
    assert F1(data=split, of=2)(Shows()).value == pytest.approx(metrics.f1_score(targets, guess, average=None)[2])
    assert IoU(data=split)(Shows()).value == pytest.approx(metrics.jaccard_score(targets, guess, average="macro"))
    images, masks = torch.randn(5, 3, 4, 4), torch.randint(0, 3, (5, 4, 4))
    masks[:, 0] = 255
    read = IoU(data=Split((images, masks), 2, task=Segmentation(ignore_index=255)))(Shows()).value
    flat = images.argmax(1)[:, 1:].flatten(), masks[:, 1:].flatten()
    assert read == pytest.approx(metrics.jaccard_score(flat[1], flat[0], average="macro"))
    labels, yes = torch.randn(30, 3), torch.randint(0, 2, (30, 3))
    expected = metrics.f1_score(yes, labels > 0, average="macro")
    assert F1(data=Split((labels, yes), 8))(Shows()).value == pytest.approx(expected)


def test_the_loss_of_a_task_takes_torchs_names() -> None:
    logits, targets = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    objective = bound_loss(TaskLoss(weight=[1.0, 9.0]), Split((logits, targets), 4), Shows())
    expected = F.cross_entropy(logits, targets, weight=torch.tensor([1.0, 9.0]))
    torch.testing.assert_close(objective(Shows(), logits, targets), expected)
    with pytest.raises(KMRError, match="Classification takes no label_weights"):
        bound_loss(TaskLoss(pos_weight=[1.0]), Split((logits, targets), 4), Shows())


def test_a_loss_of_ones_own_that_does_not_fit_says_the_shapes() -> None:
    objective = bound_loss(F.cross_entropy, Split((LOGITS, TOKENS), 4, task=TokenClassification()), Shows())
    with pytest.raises(KMRError, match=r"cross_entropy does not take outputs .*\(3, 5, 6\).*\(3, 5\).*TaskLoss"):
        objective(Shows(), LOGITS, TOKENS)


def test_a_plain_loss_beside_sample_weights_is_refused_with_the_loss_that_takes_them() -> None:
    targets = {"labels": torch.randn(6, 2), "weights": torch.rand(6)}
    data, model = Split((torch.randn(6, 2), targets), task=Regression()), nn.Linear(2, 2)
    inputs, aims = next(data.batches())
    with pytest.raises(KMRError, match=r"the loss mse_loss takes no sample weights.*kmr\.tasks\.TaskLoss"):
        bound_loss(F.mse_loss, data, model)(model, inputs, aims)
    assert bound_loss(TaskLoss(), data, model)(model, inputs, aims).isfinite()


def test_class_numbers_from_one_are_refused_with_where_they_start() -> None:
    with pytest.raises(KMRError, match=r"targets contain 3; the model has 3 classes, numbered 0 to 2: .*from 0"):
        Classification().scores(torch.randn(3, 3), torch.tensor([1, 2, 3]))
