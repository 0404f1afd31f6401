"""Guides: additional training goals beside the task, added to the loss of each batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kmr.data import Inputs, Split


@dataclass(frozen=True)
class Batch:
    """The batch of one training step.

    Args:
        places: positions of the samples in the training split, (n,); None if a loader has its own order.
        inputs: the model's inputs, after augmentation.
        targets: the samples' targets.
        outputs: the model's outputs, attached to the graph of gradients.
        augmented: whether the inputs differ from those of the split.
    """

    places: Tensor | None
    inputs: Inputs
    targets: Any
    outputs: Tensor
    augmented: bool = False


class Guidance(ABC):
    """A guide attached to one model for one training."""

    parameters: Sequence[nn.Parameter] = ()
    """Parameters trained along with the model and discarded after it."""

    @abstractmethod
    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return the loss to minimise, given the loss without this guide."""


class Guide(ABC):
    """An additional term of the fine-tuning loss. A guide is a frozen dataclass: its fields define it completely."""

    @abstractmethod
    def attach(self, model: nn.Module, data: Split, original: nn.Module | None) -> AbstractContextManager[Guidance]:
        """Return the guidance of one training as a context that leaves no trace on the model when it ends.

        Args:
            model: the model in training.
            data: its training split.
            original: the uncompressed model, the teacher of a guide that names none.
        """
