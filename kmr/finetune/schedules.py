"""Learning rate schedules: three curves by name, or any torch scheduler."""

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

CURVES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "linear": lambda done: 1 - done,
        "constant": lambda done: 1.0,
    }
)
"""Curves by name: each maps the fraction of steps done to a factor on the learning rate."""

Schedule: TypeAlias = str | Callable[[Any], LRScheduler]
"""The name of a curve, or a callable that makes a scheduler from the optimizer."""

_LENGTHS = ("total_steps", "T_max", "total_iters")


def make_scheduler(schedule: Schedule, optimizer: Optimizer, total: int, warmup: int) -> LRScheduler:
    """Return the scheduler for a training of `total` steps.

    Args:
        schedule: a curve's name, or a callable that takes the optimizer; if it has an unset argument `total_steps`,
            `T_max` or `total_iters`, it also gets the number of steps.
        optimizer: the optimizer whose learning rates it sets.
        total: steps of the training.
        warmup: steps of a linear rise before a curve.
    """
    if isinstance(schedule, str):
        curve = CURVES[schedule]
        return LambdaLR(
            optimizer,
            lambda step: (step + 1) / warmup if step < warmup else curve((step - warmup) / max(1, total - warmup)),
        )
    taken = inspect.signature(schedule).parameters
    given = getattr(schedule, "keywords", {})
    lengths = {name: total for name in _LENGTHS if name in taken and name not in given}
    # A constant scheduler's total_iters is how long its factor holds, not how long the training is.
    if "factor" in taken:
        lengths.pop("total_iters", None)
    return schedule(optimizer, **lengths)


def advance(scheduler: LRScheduler, score: float | None) -> None:
    """Advance the scheduler by one step; `ReduceLROnPlateau` advances only with a validation score."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()
    elif score is not None:
        scheduler.step(score)


def needs_validation(schedule: Schedule) -> bool:
    """Tell whether a schedule reads a validation score."""
    made = getattr(schedule, "func", schedule)
    return isinstance(made, type) and issubclass(made, torch.optim.lr_scheduler.ReduceLROnPlateau)
