"""Policies: the choice of the next move from a model and its readings (paper, section 3.4)."""

from abc import ABC, abstractmethod

from torch import nn

from kmr.core.meter import Readings
from kmr.core.trace import Move


class Policy(ABC):
    """A choice of the next move: π(M, C(M), Q(M)) ↦ (k, v).

    A policy may keep state during a run; every run gets a newly built one.
    """

    @abstractmethod
    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        """Return the next move, or None when no move is left to try."""

    def refuse(self, move: Move) -> None:
        """Record that a move saved nothing on the current model, so that it is not proposed again for this model."""
        return  # a policy that stops at the first refusal has nothing to record
