"""Criterion from gradients: the first-order change of the loss without a channel."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from kmr.data import Split
from kmr.instantiations.pruning.criteria.base import Criterion, weight_rows
from kmr.instantiations.pruning.graph import ChannelGroup
from kmr.tasks import TaskLoss, bound_loss


@final
@dataclass(frozen=True, kw_only=True)
class Taylor(Criterion):
    """The squared first-order change of the loss without a channel, averaged over batches (Molchanov et al. 2019).

    The change is Σ ∂L/∂w · w over the weights that read the channel, which equals ∂L/∂z · z summed over its activations
    z. If no layer of a known kind reads it, the sum is over the weights that make it.

    Args:
        loss: a function of (outputs, targets); by default the loss of the task.
    """

    loss: Any = field(default_factory=TaskLoss)
    relative: bool = False
    needs_data: ClassVar[bool] = True

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        assert data is not None
        twin = copy.deepcopy(model)
        weights = {}
        for path in dict.fromkeys(part.path for group in groups for part in group.parts):
            weight = getattr(twin.get_submodule(path), "weight", None)
            if isinstance(weight, nn.Parameter) and weight.is_floating_point():
                weights[path] = weight.requires_grad_(True)
        objective = bound_loss(self.loss, data, twin)
        totals: list[Tensor] = [torch.zeros(())] * len(groups)
        batches = 0
        for inputs, targets in data.batches():
            with torch.enable_grad():
                loss = objective(twin, inputs, targets)
                gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            changes = {
                path: torch.zeros_like(weight) if gradient is None else gradient * weight.detach()
                for (path, weight), gradient in zip(weights.items(), gradients, strict=True)
            }
            totals = [
                total + _change(twin, group, changes).square() for total, group in zip(totals, groups, strict=True)
            ]
            batches += 1
        return [total / batches if total.dim() else torch.empty(0) for total in totals]


def _change(model: nn.Module, group: ChannelGroup, changes: dict[str, Tensor]) -> Tensor:
    """Return the signed first-order change of the loss for each channel of a group, (channels,)."""
    for makes in (False, True):
        found = [
            rows.summed(rows.matrix.sum(1), group.size)
            for rows in weight_rows(model, group, changes)
            if rows.part.makes is makes
        ]
        if found:
            return torch.stack(found).sum(0) if not makes else torch.stack(found).mean(0)
    return torch.zeros(())
