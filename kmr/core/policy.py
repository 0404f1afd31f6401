"""Policies: what to turn next, given a model and its readings (paper, section 3.4)."""

from abc import ABC, abstractmethod

from torch import nn

from kmr.core.meter import Readings
from kmr.core.trace import Move


class Policy(ABC):
    """Chooses the next move: π(M, C(M), Q(M)) ↦ (k, v).

    A policy may keep state over a run, and is built afresh for each.
    """

    @abstractmethod
    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        """Return the next move, or None when there is nothing left to try."""

    def refuse(self, move: Move) -> None:
        """Learn that a move saved nothing on the current model; it must not be proposed again for this model."""
        return  # a policy that stops at the first refusal has nothing to learn
