"""How batches go through a task: prepared once, called as the task says, and its output alone in a runtime."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from kmr.core import measure
from kmr.data import Split
from kmr.instantiations.pruning import StructuredPruning
from kmr.meters import Accuracy, Deployed
from kmr.meters.deployment import batch_of
from kmr.runtimes import Eager
from kmr.runtimes.selected_output import with_selected_output
from kmr.tasks import Classification, Detection, TaskLoss, bound_loss


@dataclass(frozen=True)
class FromOne(Classification):
    """Class numbers from 1, raw bytes, and the logits as the second of a pair: nothing that may be done twice."""

    def prepare(self, inputs, targets):
        return inputs.float() / 255, targets - 1

    def outputs(self, returned):
        return returned[1]


class Pair(nn.Linear):
    def forward(self, x):
        logits = super().forward(x)
        return -logits, logits


def test_a_batch_is_prepared_once_for_meters_and_for_training() -> None:
    inputs, targets = torch.randint(0, 256, (40, 5)).to(torch.uint8), torch.randint(1, 4, (40,))
    data, model = Split((inputs, targets), 16, task=FromOne()), Pair(5, 3)
    logits = model(inputs.float() / 255)[1]
    right = (logits.argmax(1) == targets - 1).double().mean()
    assert measure(model, [Accuracy(data=data)])["accuracy"].value == pytest.approx(float(right))
    batch = next(data.batches())
    expected = F.cross_entropy(logits[:16], targets[:16] - 1)
    torch.testing.assert_close(bound_loss(TaskLoss(), data, model)(model, *batch), expected)


def test_a_runtime_returns_the_output_of_the_task() -> None:
    inputs, targets = torch.randint(0, 256, (40, 5)).to(torch.uint8), torch.randint(1, 4, (40,))
    data, model = Split((inputs, targets), 16, task=FromOne()), Pair(5, 3).eval()
    settings = {"data": data, "example_inputs": data.first_inputs(2), "calibration": data, "runtime": Eager()}
    read = measure(model, [Accuracy(data=data), Deployed(**settings)])
    assert read["deployed_accuracy"] == read["accuracy"]
    selected = with_selected_output(model, FromOne())
    assert torch.equal(selected(data.first_inputs(2)), model(data.first_inputs(2))[1])
    assert with_selected_output(model, Classification()) is model


def images_and_boxes(sizes: tuple[int, ...]) -> list:
    box = {"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": torch.tensor([1])}
    return [(torch.rand(1, size, size), box) for size in sizes]


class Finds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, images):
        boxes = [self.body(image.mean().reshape(1, 1)) for image in images]
        return [{"boxes": box, "labels": torch.ones(1), "scores": torch.ones(1)} for box in boxes]


@pytest.mark.parametrize("sizes", [(4, 4, 4, 4, 4), (4, 6, 5, 4, 4)])
def test_a_loader_of_a_detector_is_read_in_part_and_rules_call_the_model_as_the_task_does(sizes) -> None:
    loader = DataLoader(images_and_boxes(sizes), 2, collate_fn=lambda batch: tuple(map(list, zip(*batch, strict=True))))
    data = Split(loader, task=Detection())
    few = data.subset(3)
    assert [len(aims) for _, aims in few.batches()] == [3]
    inputs, _ = next(few.batches())
    assert [image.shape[-1] for image in inputs[0]] == list(sizes[:3])
    rule = StructuredPruning(example_inputs=data.first_inputs(1))
    assert rule(Finds(), "structured.ratio", 0.5).body[0].out_features == 4


def test_the_first_samples_of_a_loader_are_prepared_once() -> None:
    inputs, targets = torch.randint(0, 256, (8, 5)).to(torch.uint8), torch.randint(1, 4, (8,))
    data = Split(DataLoader(TensorDataset(inputs, targets), 4), task=FromOne())
    few, aims = next(data.subset(3).batches())
    torch.testing.assert_close(few, inputs[:3].float() / 255)
    assert torch.equal(aims, targets[:3] - 1)


def test_a_batch_of_a_detector_is_a_list_of_as_many_images() -> None:
    inputs = ([image for image, _ in images_and_boxes((4, 6))],)
    (images,) = batch_of(inputs, 5)
    assert [image.shape[-1] for image in images] == [4, 6, 4, 6, 4]
