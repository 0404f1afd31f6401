"""How much memory an optimizer needs to train a model further."""

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
    """The bytes of the gradients of all parameters that train, and of what an optimizer keeps for them.

    Unit: B. Range: [0, ∞). Direction: minimize.

    They are those of an optimizer that has taken a step, on copies of the parameters. Activations do not count, nor do
    the weights.

    Args:
        optimizer: makes the optimizer from parameters; its step takes no arguments.
        gradients: whether the gradients count.
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
