"""Renamed and removed config entries of earlier versions."""

from collections.abc import Mapping
from typing import Any

RENAMED = {"budget": "limits"}
"""Config entries renamed after version 0.1: old name to new name."""
REMOVED = {"bound_margin": "remove it; `screening` already skips unpromising vectors"}
"""Config entries removed after version 0.1, and what to do instead."""


def with_loss_of_now(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Write the cross-entropy of a classifier, which recipes once named, as the loss of the task, which it is."""
    found = dict(entries)
    for recipe in ("train", "finetune"):
        loss = (found.get(recipe) or {}).get("loss")
        if isinstance(loss, Mapping) and loss.get("_target_") == "torch.nn.functional.cross_entropy":
            found[recipe] = {**found[recipe], "loss": {**loss, "_target_": "kmr.tasks.TaskLoss"}}
    return found
