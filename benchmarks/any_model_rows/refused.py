"""Rows of models that must be refused: what they compute depends on more than their weights and inputs."""

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.any_model_rows.modules import Perceptron, data
from benchmarks.any_model_rows.row import Row


class Counting(Perceptron):
    """A model that keeps state between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x) + self.last
        self.last = found.detach().mean()
        return found


class Closure(nn.Module):
    """A model whose forward is a function that holds the original's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 3)
        body, head = self.body, self.head

        def run(x: Tensor) -> Tensor:
            logits: Tensor = head(torch.relu(body(x)))
            return logits

        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Noisy(Perceptron):
    """A model that draws noise in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5)


class Locked(Perceptron):
    """A model with a lock, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Drawn(Perceptron):
    """A model with random numbers outside its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.randn(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ self.projection)


class Fails(nn.Module):
    """A model that takes other inputs than the data have."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


def _refused(name: str, build: Any, *words: str) -> Row:
    return Row(name=name, build=build, data=data, refuses=words)


ROWS = (
    _refused("state_between_calls", Counting, "calls before it", "state"),
    _refused("closure_over_the_original", Closure, "copy", "closure", "self"),
    _refused("noise_in_evaluation", Noisy, "random", "self.training"),
    _refused("lock_in_the_model", Locked, "cannot be copied", "lock"),
    _refused("random_numbers_outside_the_state", Drawn, "projection", "register_buffer"),
    _refused("other_inputs", Fails, "does not take the train data", "9x3"),
)
