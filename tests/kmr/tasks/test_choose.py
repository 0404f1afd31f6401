"""The choice of a task: where outputs and targets leave no doubt, and where they do."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError
from kmr.data import Split
from kmr.finetune import mean_squared_error, token_cross_entropy
from kmr.tasks import (
    CausalLM,
    Classification,
    Detection,
    MaskedLM,
    MultiLabel,
    Regression,
    Segmentation,
    TokenClassification,
    choose_task,
    task_of,
)

INTS = torch.randint(0, 2, (4, 5), generator=torch.Generator().manual_seed(0))


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        (logits(4, 3), torch.tensor([0, 2, 1, 0]), Classification()),
        (logits(4, 3), torch.tensor([[0], [2], [1], [0]]), Classification()),
        (logits(4, 3), torch.softmax(logits(4, 3), 1), Classification()),
        (logits(4, 5, 7), INTS, TokenClassification()),
        (logits(4, 7, 5), INTS, Classification()),
        (logits(4, 3, 6, 6), torch.zeros(4, 6, 6).long(), Segmentation()),
        (logits(4, 3, 6, 6), torch.zeros(4, 1, 6, 6).long(), Segmentation()),
        (logits(4, 5), INTS, MultiLabel()),
        (logits(4, 5), INTS.float(), MultiLabel()),
        (logits(4, 5), INTS.bool(), MultiLabel()),
        (logits(4, 1), torch.tensor([0, 1, 1, 0]), MultiLabel()),
        (logits(4), torch.tensor([True, False, True, False]), MultiLabel()),
        (logits(4, 1), logits(4), Regression()),
        (logits(4, 2, 3), logits(4, 2, 3), Regression()),
        ([{"boxes": 0}], None, Detection()),
    ],
)
def test_outputs_and_targets_show_the_task(outputs, targets, expected) -> None:
    assert choose_task(outputs, None, targets) == expected


@pytest.mark.parametrize(
    ("outputs", "targets", "named"),
    [
        (logits(4, 5, 5), INTS, "TokenClassification"),
        (logits(4, 2), F.one_hot(INTS[:, 0], 2).float(), "Classification .one class each. or kmr.tasks.MultiLabel"),
        (logits(4, 1), INTS[:, 0].float(), "MultiLabel .yes or no. or kmr.tasks.Regression"),
        (logits(4, 1), torch.tensor([0, 5, 2, 3]), "Regression"),
        (logits(4, 3), torch.tensor([0.0, 2.0, 1.0, 1.0]), r"\.long"),
        (logits(4, 6), logits(4, 2, 3), r"\(4, 6\) do not fit targets of shape \(4, 2, 3\)"),
        (logits(4, 9, 3), INTS, "fit more than one task, or none"),
        (logits(4, 3), None, "no targets"),
        (logits(4, 3), ["cat", "dog"], "not a tensor"),
        ({"a": logits(4), "b": logits(4)}, INTS, r"task\.output"),
    ],
)
def test_a_doubt_is_refused_with_the_choices(outputs, targets, named) -> None:
    with pytest.raises(KMRError, match=named):
        choose_task(outputs, None, targets)


def test_the_loss_says_more() -> None:
    square, tokens = logits(4, 5, 5), INTS
    assert choose_task(square, None, tokens, losses=[token_cross_entropy]) == TokenClassification()
    assert choose_task(square, None, tokens, losses=[F.cross_entropy]) == Classification()
    ignored = [partial(F.cross_entropy, ignore_index=255), nn.CrossEntropyLoss(ignore_index=255)]
    for loss in ignored:
        found = choose_task(logits(4, 3), None, torch.tensor([0, 1, 2, 255]), losses=[loss])
        assert found == Classification(ignore_index=255)
    binary = torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert choose_task(logits(4, 1), None, binary, losses=[nn.BCEWithLogitsLoss()]) == MultiLabel()
    assert choose_task(logits(4, 1), None, binary, losses=[mean_squared_error]) == Regression()


def test_the_meters_and_all_targets_in_memory_say_more() -> None:
    binary, every = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 0.0, 2.5])
    assert choose_task(logits(4, 1), None, binary, fits=[Regression]) == Regression()
    assert choose_task(logits(4, 1), None, binary, values=every) == Regression()


def test_one_split_is_another_task_for_another_model() -> None:
    data = Split((logits(4, 3), torch.tensor([0, 1, 1, 0])))
    _, targets = next(data.batches())
    assert task_of(data, logits(4, 2), None, targets) == Classification()
    assert task_of(data, logits(4, 1), None, targets) == MultiLabel()
    assert task_of(data, logits(4, 1), None, targets, fits=[Regression]) == Regression()
    assert task_of(data, logits(4, 2), None, targets) is task_of(data, logits(4, 2), None, targets)


def test_the_class_of_a_model_and_its_inputs_say_more() -> None:
    for name, expected in (
        ("TinyForCausalLM", CausalLM()),
        ("TinyForMaskedLM", MaskedLM()),
        ("TinyForTokenClassification", TokenClassification()),
        ("TinyForSemanticSegmentation", Segmentation(resize=True)),
    ):
        model = type(name, (nn.Module,), {})()
        assert choose_task(logits(4, 5, 5), None, INTS, model=model) == expected
    assert choose_task(logits(4, 5, 9), {"input_ids": INTS}, INTS) == CausalLM()
    assert choose_task(logits(4, 5, 9), INTS, 1 - INTS) == TokenClassification()
