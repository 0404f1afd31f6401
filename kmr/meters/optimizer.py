"""Memory that an optimizer needs to train a model further."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kmr.core import Cost, Reading


@final
@dataclass(frozen=True, kw_only=True)
class OptimizerBytes(Cost):
    """The size of the optimizer's state and the gradients for all trainable parameters.

    Unit: B. Range: [0, ∞). Direction: minimize.

    The meter takes one optimizer step on copies of the parameters. Activations and weights do not count.

    Args:
        optimizer: makes the optimizer from parameters; its step takes no arguments.
        gradients: count the gradients too.
    """

    static: ClassVar[bool] = True
    optimizer: Callable[..., torch.optim.Optimizer] = field(default=torch.optim.AdamW)
    gradients: bool = True
    name: str = "optimizer_bytes"
    unit: str = field(init=False, default="B")

    def read(self, seen: nn.Module) -> Reading:
        trained = [nn.Parameter(torch.zeros_like(p)) for p in seen.parameters() if p.requires_grad]
        if not trained:
            return Reading(0.0)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer = self.optimizer(trained)
        optimizer.step()
        kept: list[Any] = [leaf for state in optimizer.state.values() for leaf in tree_leaves(state)]
        tensors = [leaf for leaf in kept if isinstance(leaf, Tensor)] + (trained if self.gradients else [])
        return Reading(float(sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
