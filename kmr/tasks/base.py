"""Tasks whose model returns a tensor that is compared with targets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.core.task import Task
from kmr.data.forward import call, output_tensor


class Weighted(NamedTuple):
    """Targets with a weight for each sample."""

    targets: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class TensorTask(Task):
    """A task with one output tensor.

    Args:
        output: the key, attribute or place of the output in what the model returns; None takes the value itself, its
            `logits` or `out`, or the first tensor of a tuple.
    """

    output: str | int | None = None

    def prepare(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Take sample weights out of targets {'labels': …, 'weights': …}."""
        if isinstance(targets, Mapping):
            if set(targets) != {"labels", "weights"}:
                raise KMRError(
                    f"{type(self).__name__} takes a tensor of targets, or a dict of labels and weights, not a dict of "
                    f"{', '.join(map(str, targets))}"
                )
            return inputs, Weighted(targets["labels"], targets["weights"])
        return inputs, targets

    def call(self, model: nn.Module, inputs: Any) -> Any:
        return call(model, inputs)

    def outputs(self, returned: Any) -> Tensor:
        # A runtime returns the output alone.
        return returned if isinstance(returned, Tensor) else output_tensor(returned, self.output)


def with_weights(targets: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return targets and sample weights, or None, on a device."""
    if isinstance(targets, Weighted):
        return targets.targets.to(device), targets.weights.to(device).reshape(-1)
    if not isinstance(targets, Tensor):
        kind = "missing" if targets is None else f"a {type(targets).__name__}"
        hint = f": {targets[0]!r}, …" if isinstance(targets, list | tuple) and targets else ""
        raise KMRError(
            f"the targets are {kind}{hint}: give a tensor; of texts, numbers from sorted(set(labels)).index, or lists "
            "held in memory, which are numbered for you"
        )
    return targets.to(device), None


def mean_of(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of losses, weighted where there are weights of the same length."""
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def changed(task: Task, **settings: Any) -> Task:
    """Return a task with other settings; raise `KMRError` for one that it does not have."""
    try:
        return replace(task, **settings)  # type: ignore[type-var]
    except TypeError as error:
        raise KMRError(f"the loss of {type(task).__name__} takes no {', '.join(settings)}") from error
