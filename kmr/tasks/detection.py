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
        return list(inputs), aims

    def call(self, model: nn.Module, inputs: Any) -> Any:
        device = device_of(model)
        return model([image.to(device) for image in inputs])

    def outputs(self, returned: Any) -> list[dict[str, Tensor]]:
        wanted = {"boxes", "labels", "scores"}
        if not isinstance(returned, list | tuple) or not all(wanted <= set(one) for one in returned):
            raise KMRError(
                "the model returned no list of dicts with boxes, labels and scores, as torchvision's detectors do"
            )
        return list(returned)

    def training_loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """Return the sum of the losses that the model computes in training mode."""
        device = device_of(model)
        losses = model([image.to(device) for image in inputs], [dict(moved(one, device)) for one in targets])
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
