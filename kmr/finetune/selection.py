"""Which weights a training ends with, and whether to go on, from a score on samples it does not train on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Selection:
    """Follows the score of a model through its training; lower is better.

    Args:
        model: what is trained.
        score: reads the score now.
        patience: checks without a better score after which to stop; None goes on.
        keep_best: whether to put the weights of the best score back at the end.
    """

    model: nn.Module
    score: Callable[[], float]
    patience: int | None
    keep_best: bool
    best: float = math.inf
    waited: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def check(self) -> float:
        """Read the score of the model as it is now and remember the best; return it."""
        value = self.score()
        if value < self.best:
            self.best, self.waited = value, 0
            if self.keep_best:
                self.kept = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        else:
            self.waited += 1
        return value

    @property
    def is_over(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.waited >= self.patience

    def restore(self) -> None:
        """Put the best weights and statistics back, where they are to be kept."""
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                if name in self.kept:
                    tensor.copy_(self.kept[name])

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
