"""The output of a task, selected from what a model returns, as the only output of an exported graph."""

from typing import Any

from torch import Tensor, nn

from kmr.core import Task
from kmr.core.key_value_cache import without_key_value_cache
from kmr.tasks import Detection, TensorTask


class SelectedOutput(nn.Module):
    """A model that returns the task's output alone.

    Args:
        model: the model.
        task: selects the output.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the model."""
        with without_key_value_cache(self.model):
            found: Tensor = self._task.outputs(self.model(*args, **kwargs))
        return found


def with_selected_output(model: nn.Module, task: Task | None) -> nn.Module:
    """Return a model that returns the task's output, or the model itself where `kmr.data.forward` finds it too."""
    if task is None or isinstance(task, Detection):
        return model
    as_forward = isinstance(task, TensorTask) and type(task).outputs is TensorTask.outputs and task.output is None
    return model if as_forward else SelectedOutput(model, task)
