"""Logits with the classes last, whatever the task's layout."""

import torch
from torch import Tensor

from kmr.core import KMRError, Task
from kmr.tasks import Classification, MultiLabel


def classes_last(outputs: Tensor, task: Task | None, dim: int | None) -> Tensor:
    """Return logits (…, classes); a yes or no for each label becomes two classes.

    Args:
        outputs: a model's outputs.
        task: the task of the data, which knows the axis of the classes.
        dim: the axis of the classes, where it is given.

    Raises:
        KMRError: the task has no classes.
    """
    if dim is not None:
        return outputs.movedim(dim, -1)
    if isinstance(task, Classification):
        return outputs.movedim(task.axis, -1)
    if isinstance(task, MultiLabel):
        return torch.stack([outputs, torch.zeros_like(outputs)], -1)
    raise KMRError(
        f"{type(task).__name__} has no classes whose distribution could be taught: set form=mse, or dim to the axis of "
        "the classes"
    )
