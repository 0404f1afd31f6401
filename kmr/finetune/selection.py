"""Early stopping and selection of the best weights by a validation score."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Selection:
    """A record of a model's validation score during training; lower is better.

    Args:
        model: the model in training.
        score: returns the current score.
        patience: checks without improvement after which training is over; None never ends it.
        keep_best: whether `restore` brings back the weights with the best score.
    """

    model: nn.Module
    score: Callable[[], float]
    patience: int | None
    keep_best: bool
    best: float = math.inf
    waited: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def check(self) -> float:
        """Return the current score; record it and, if it is the best, the weights."""
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
        """Whether the patience is exhausted."""
        return self.patience is not None and self.waited >= self.patience

    def restore(self) -> None:
        """Restore the best weights and statistics if `keep_best` is set."""
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                if name in self.kept:
                    tensor.copy_(self.kept[name])

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
