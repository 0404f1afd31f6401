"""Deep mutual learning (Zhang et al. 2018): peers trained together, each a teacher of the others."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from kmr.core import KMRError, Task, device_of
from kmr.data import Split
from kmr.finetune import Batch, Guidance, Guide
from kmr.instantiations.distillation.layout import classes_last
from kmr.instantiations.distillation.losses import hinton, softened
from kmr.tasks import BoundLoss, TaskLoss, bound_loss, task_for


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Mutual(Guide):
    """Peers trained along with the model: each adds weight · mean over the others of KL(other ‖ it) to its loss.

    No teacher is needed. Targets are detached: nothing gets a gradient through what it teaches. The peers are discarded
    after the training.

    Args:
        peers: number of peers, at least 1.
        peer: builds a peer of any architecture; by default peers are copies of the model with noise (`spread`).
        spread: standard deviation of the noise in each parameter of a copy, relative to that of the parameter.
        weight: weight of the mutual term, at least 0.
        temperature: temperature of the outputs, above 0; 1 in the paper.
        loss: a function of (a peer's outputs, targets); by default the loss of the task.
        dim: the class dimension of the outputs; None is the task's.
    """

    peers: int = 1
    peer: Callable[[], nn.Module] | None = None
    spread: float = 0.1
    weight: float = 1.0
    temperature: float = 1.0
    loss: Any = field(default_factory=TaskLoss)
    dim: int | None = None

    def __post_init__(self) -> None:
        if self.peers < 1 or not self.temperature > 0 or self.weight < 0 or self.spread < 0:
            raise KMRError(
                f"mutual learning needs peers >= 1, temperature > 0, weight >= 0 and spread >= 0, not {self.peers}, "
                f"{self.temperature}, {self.weight} and {self.spread}"
            )

    @contextmanager
    def attach(self, model: nn.Module, data: Split, original: nn.Module | None) -> Iterator[Guidance]:
        """Return the guidance of one training; peers are drawn from torch's seeded generator."""
        device = device_of(model)
        cohort = [(self._moved(model) if self.peer is None else self.peer()).to(device) for _ in range(self.peers)]
        for peer in cohort:
            peer.train()
        trained = [p for peer in cohort for p in peer.parameters() if p.requires_grad]
        yield _Cohort(self, cohort, bound_loss(self.loss, data, model), task_for(model, data), trained)

    def _moved(self, model: nn.Module) -> nn.Module:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in moved.parameters():
                if parameter.numel() > 1:
                    parameter.add_(torch.randn_like(parameter), alpha=self.spread * float(parameter.std()))
        return moved


@dataclass(eq=False)
class _Cohort(Guidance):
    settings: Mutual
    cohort: Sequence[nn.Module]
    objective: BoundLoss
    task: Task
    parameters: Sequence[nn.Parameter] = ()

    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return the sum of all losses; the gradients of each reach only its own parameters."""
        how = self.settings
        answers = [batch.outputs, *(self.objective.outputs(peer, batch.inputs) for peer in self.cohort)]
        for answer in answers[1:]:
            loss = loss + self.objective.of(answer, batch.targets)
        answers = [classes_last(answer, self.task, how.dim) for answer in answers]
        for mine, answer in enumerate(answers):
            for other, taught in enumerate(answers):
                if other != mine:
                    target = softened({"other": taught.detach()}, how.temperature, -1)
                    distance = hinton(answer, target, how.temperature, -1).mean()
                    loss = loss + how.weight * distance / len(self.cohort)
        return loss
