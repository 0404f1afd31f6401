"""The loss of a task with other settings, and what a user's own loss says about the task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError
from kmr.core.task import Task
from kmr.tasks.base import Weighted, changed
from kmr.tasks.classes import Classification
from kmr.tasks.numbers import MultiLabel

LOSS_WEIGHTS: Mapping[str, str] = MappingProxyType({"weight": "class_weights", "pos_weight": "label_weights"})
"""torch's names of loss settings, by those of a task."""


class TaskLoss:
    """The loss of the task, with other settings.

    Args:
        settings: settings of the task's loss, by its names or torch's: `weight`, `ignore_index`, `label_smoothing`,
            `pos_weight`, `kind`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = {LOSS_WEIGHTS.get(name, name): value for name, value in settings.items() if value is not None}

    def __repr__(self) -> str:
        return f"TaskLoss({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskLoss) and other.settings == self.settings

    def __hash__(self) -> int:
        return hash(repr(self))

    def fingerprint(self) -> str:
        """Return a digest of the settings."""
        return repr(sorted(self.settings.items()))

    def of(self, task: Task) -> Task:
        """Return the task with these settings."""
        return changed(task, **self.settings) if self.settings else task


def prepared(loss: Any) -> Any:
    """Return a loss whose lists of weights, as a YAML file gives them, are tensors."""
    if isinstance(loss, functools.partial) and loss.func is TaskLoss:
        return TaskLoss(**loss.keywords)
    if isinstance(loss, functools.partial):
        given = {name: numbers(value) if name in LOSS_WEIGHTS else value for name, value in loss.keywords.items()}
        # A recipe's loss is a function with some arguments; torch's classes are called once to make one.
        is_class = isinstance(loss.func, type) and issubclass(loss.func, nn.Module)
        made: Any = functools.partial(loss.func, *loss.args, **given)
        return made() if is_class else made
    return loss


def numbers(values: Sequence[float]) -> Tensor:
    """Return a list of numbers as a tensor of float32."""
    return values if isinstance(values, Tensor) else torch.tensor(list(values), dtype=torch.float32)


def called(loss: Any, outputs: Any, targets: Any) -> Tensor:
    """Return the value of a user's loss of (outputs, targets), on the outputs' device.

    Raises:
        KMRError: the loss does not take them; the message gives their shapes.
    """
    device = outputs.device if isinstance(outputs, Tensor) else torch.device("cpu")
    name = getattr(getattr(loss, "func", loss), "__name__", type(loss).__name__)
    if isinstance(targets, Weighted):
        raise KMRError(
            f"the loss {name} takes no sample weights: use the task's own, kmr.tasks.TaskLoss, as the recipes adamw "
            "and sgd do, or leave the weights out"
        )
    if isinstance(targets, Tensor):
        targets = targets.to(device)
    if isinstance(loss, nn.Module):
        loss = loss.to(device)
    elif isinstance(loss, functools.partial):
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in loss.keywords.items()}
        loss = functools.partial(loss.func, *loss.args, **moved)
    try:
        value: Tensor = loss(outputs, targets)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        shapes = [
            f"{part.dtype} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            for part in (outputs, targets)
        ]
        raise KMRError(
            f"the loss {name} does not take outputs ({shapes[0]}) and targets ({shapes[1]}): "
            f"{' '.join(str(error).split())}; use another finetune.loss, or kmr.tasks.TaskLoss for the task's own"
        ) from error
    return value


@dataclass(frozen=True)
class Hint:
    """What a loss says about the task.

    Args:
        kinds: the tasks that the loss fits; empty if it says nothing.
        settings: settings of the task that follow from the loss.
    """

    kinds: tuple[type[Task], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def hint_of(loss: Any) -> Hint:
    """Return what a loss says about the task: torch's losses and this project's are known."""
    from kmr.tasks.numbers import Regression

    loss = prepared(loss)
    function: Callable[..., Any] = loss.func if isinstance(loss, functools.partial) else loss
    given: Mapping[str, Any] = loss.keywords if isinstance(loss, functools.partial) else {}
    if isinstance(loss, TaskLoss):
        return Hint((), {name: loss.settings[name] for name in ("ignore_index",) if name in loss.settings})
    if isinstance(loss, nn.Module):
        given = {"ignore_index": loss.ignore_index} if hasattr(loss, "ignore_index") else {}
    ignored = {"ignore_index": given["ignore_index"]} if given.get("ignore_index", -100) != -100 else {}
    if function in (F.cross_entropy, F.nll_loss) or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return Hint((Classification,), {"class_axis": 1, **ignored})
    if getattr(function, "__name__", "") in ("token_cross_entropy", "next_token_cross_entropy"):
        return Hint((Classification,), {"class_axis": -1, "shift": function.__name__.startswith("next")})
    if function is F.binary_cross_entropy_with_logits or isinstance(loss, nn.BCEWithLogitsLoss):
        return Hint((MultiLabel,))
    numeric = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
    modules = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
    if function in numeric or getattr(function, "__name__", "") == "mean_squared_error" or isinstance(loss, modules):
        return Hint((Regression,))
    return Hint((), ignored)
