"""Fine-tuning: one small loop that recovers quality after a move, and trains a base model.

What a rule fixed stays fixed: masks and grids are parametrizations, the optimizer moves only the latent weights under
them, and the loop settles those at its end (`kmr.weights.settle`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading, isolated_rng
from kmr.data import Inputs, Split, forward
from kmr.weights import settle

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Of (outputs, targets), a scalar mean over the batch."""

Progress: TypeAlias = Callable[[int, int, float], None]
"""Told (steps done, steps in all, loss) after every step."""


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error; outputs of shape (n, 1) are read as (n,) where the targets are."""
    if outputs.numel() != targets.numel():
        raise KMRError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    return F.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4)


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train a model in place for a number of steps; the same model, data and seed give the same result.

    Args:
        data: the training split; reshuffled each epoch from `seed`.
        loss: of (outputs, targets).
        epochs: passes over the data, a fraction allowed; `steps` takes its place when given.
        steps: optimizer steps.
        optimizer: makes the optimizer from the model's parameters.
        schedule: the learning rate falls along a half cosine to 0, or stays constant.
        max_norm: gradients are clipped to this 2-norm; None leaves them.
        augment: changes a batch of inputs, drawing from torch's seeded generator.
        seed: of the order of samples, of dropout and of augmentation.

    Raises:
        NonFiniteReading: the loss became NaN or infinite.
    """

    data: Split = field(repr=False)
    loss: Loss = F.cross_entropy
    epochs: float = 1.0
    steps: int | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] = _sgd
    schedule: str = "cosine"
    max_norm: float | None = 5.0
    augment: Callable[[Inputs], Inputs] | None = None
    seed: int = 0
    progress: Progress | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "constant"):
            raise KMRError(f"the schedule of fine-tuning must be cosine or constant, not {self.schedule!r}")
        if self.total_steps < 0:
            raise KMRError(f"fine-tuning needs epochs >= 0 and steps >= 0, not {self.epochs} and {self.steps}")

    @property
    def total_steps(self) -> int:
        """The optimizer steps one call takes."""
        if self.steps is not None:
            return self.steps
        return round(self.epochs * math.ceil(len(self.data) / self.data.batch_size))

    def __call__(self, model: nn.Module) -> nn.Module:
        """Train the model in place and return it, in the train or eval mode it was in."""
        total = self.total_steps
        if total == 0 or not any(p.requires_grad for p in model.parameters()):
            return model
        training = model.training
        with isolated_rng(self.seed):
            self._train(model, total)
        settle(model)
        return model.train(training)

    def _train(self, model: nn.Module, total: int) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = self.optimizer(parameters)
        decay = (
            (lambda _: 1.0) if self.schedule == "constant" else (lambda s: 0.5 * (1 + math.cos(math.pi * s / total)))
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
        model.train()
        done = 0
        for epoch in range(total):
            for inputs, targets in self.data.batches(shuffle_seed=self.seed + epoch):
                if done == total:
                    break
                if self.augment is not None:
                    inputs = self.augment(inputs)
                outputs = forward(model, inputs)
                loss = self.loss(outputs, targets.to(outputs.device))
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise NonFiniteReading(f"the training loss became {value} at step {done}: lower the learning rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if self.max_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, self.max_norm)
                optimizer.step()
                scheduler.step()
                done += 1
                if self.progress is not None:
                    self.progress(done, total, value)
            if done == total:
                break
        optimizer.zero_grad(set_to_none=True)
