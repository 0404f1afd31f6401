"""Detection: boxes, scores and labels, in torchvision's convention."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError, device_of
from kmr.core.task import Task
from kmr.data.structures import moved
from kmr.tasks.scores import BoxScores


@dataclass(frozen=True, kw_only=True)
class Detection(Task):
    """Boxes in images, in torchvision's convention.

    A sample is an image and a dict of `boxes` (k, 4), as x1, y1, x2, y2, and `labels` (k,). The model takes a list of
    images and returns, in evaluation, a list of dicts of `boxes`, `labels` and `scores`; in training it takes the
    targets too and returns a dict of losses. A `Dataset` of such samples needs a `collate_fn` that returns lists, or a
    `DataLoader`.
    """

    @property
    def convention(self) -> str:
        return "a list of images and of dicts with boxes (k, 4) and labels (k,); outputs also have scores (k,)"

    def prepare(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        aims = list(targets) if isinstance(targets, tuple | list) else None
        if aims is None or not all(isinstance(one, dict) and {"boxes", "labels"} <= set(one) for one in aims):
            raise KMRError(f"targets are no list of dicts with boxes and labels: Detection takes {self.convention}")
        # The model takes one argument, a list, as every call of it does, also those that know no task.
        return (list(inputs[0] if _is_argument(inputs) else inputs),), aims

    def call(self, model: nn.Module, inputs: Any) -> Any:
        return model(_images(model, inputs))

    def outputs(self, returned: Any) -> list[dict[str, Tensor]]:
        wanted = {"boxes", "labels", "scores"}
        if not isinstance(returned, list | tuple) or not all(wanted <= set(one) for one in returned):
            raise KMRError(
                "the model returned no list of dicts with boxes, labels and scores, as torchvision's detectors do"
            )
        return list(returned)

    def training_loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """Return the sum of the losses that the model computes in training mode."""
        images = _images(model, inputs)
        losses = model(images, [dict(moved(one, images[0].device)) for one in targets])
        if not isinstance(losses, dict):
            raise KMRError("a detector must return a dict of losses in training mode, as torchvision's do")
        return torch.stack([loss.sum() for loss in losses.values()]).sum()

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        raise KMRError("a detector computes its own losses in training mode; it has no loss of detections and targets")

    def scores(self, outputs: Any, targets: Any) -> BoxScores:
        if len(outputs) != len(targets):
            raise KMRError(f"the model returned detections for {len(outputs)} of {len(targets)} images")
        plain = [{key: value.detach().cpu() for key, value in one.items()} for one in outputs]
        return BoxScores(
            len(targets), outputs=plain, targets=[dict(moved(one, torch.device("cpu"))) for one in targets]
        )


def _is_argument(inputs: Any) -> bool:
    """Tell whether inputs are a tuple of one list of images, or of one tensor of several."""
    if not isinstance(inputs, tuple) or len(inputs) != 1:
        return False
    return isinstance(inputs[0], list) or (isinstance(inputs[0], Tensor) and inputs[0].dim() == 4)


def _images(model: nn.Module, inputs: Any) -> list[Tensor]:
    device = device_of(model)
    return [image.to(device) for image in (inputs[0] if _is_argument(inputs) else inputs)]
