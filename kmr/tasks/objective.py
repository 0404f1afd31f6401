"""The training loss of a model on a batch: the task's own, or a user's function of outputs and targets."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import Task, isolated_rng
from kmr.data import Split, call, output_tensor
from kmr.tasks.choose import task_before_call, task_of
from kmr.tasks.losses import TaskLoss, called, prepared


@dataclass(frozen=True, eq=False)
class BoundLoss:
    """A loss bound to a task.

    Args:
        loss: a function of (outputs, targets), or None for the task's own.
        task: the task, with the settings of the loss; None only beside a loss.
        prepares: whether batches must be prepared for the task; those of a split with a task are.
    """

    loss: Any
    task: Task | None
    prepares: bool = False

    def outputs(self, model: nn.Module, inputs: Any) -> Any:
        """Return the outputs of a model for a batch, as the loss takes them."""
        if self.task is None:
            return output_tensor(call(model, inputs))
        return self.task.outputs(self.task.call(model, inputs))

    def found_in(self, returned: Any) -> Any:
        """Return the outputs in what a model returned."""
        return output_tensor(returned) if self.task is None else self.task.outputs(returned)

    def of(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of outputs."""
        if self.loss is not None:
            return called(self.loss, outputs, targets)
        assert self.task is not None
        return self.task.loss(outputs, targets)

    def __call__(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """Return the loss of a model on a batch."""
        if self.loss is not None or self.task is None:
            return self.of(self.outputs(model, inputs), targets)
        if self.prepares:
            inputs, targets = self.task.prepare(inputs, targets)
        return self.task.training_loss(model, inputs, targets)


def bound_loss(loss: Any, data: Split, model: nn.Module) -> BoundLoss:
    """Return a loss bound to the task of a split.

    Args:
        loss: a function of (outputs, targets), or a `TaskLoss`.
        data: the split; a task that it does not name is chosen from the model's first outputs.
        model: the model, which is not changed.
    """
    loss = prepared(loss)
    if isinstance(loss, TaskLoss):
        return BoundLoss(None, loss.of(task_for(model, data)), prepares=data.task is None)
    return BoundLoss(loss, data.task)


def task_for(model: nn.Module, data: Split) -> Task:
    """Return a split's task: its own, or the one that the model's first outputs show.

    Raises:
        KMRError: they leave a doubt; the message gives the choices.
    """
    if data.task is not None:
        return data.task
    inputs, targets = next(data.subset(64).batches())
    if (shown := task_before_call(targets)) is not None:
        return shown
    with quiet(model):
        returned = call(model, inputs)
    return task_of(data, returned, inputs, targets, model)


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without gradients, and restore its modes, its buffers and the random state afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone(), buffer._version)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    model.eval()
    try:
        with torch.no_grad(), isolated_rng(0):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, value, version in buffers:
            module._buffers[name] = buffer if buffer._version == version else buffer.copy_(value)
