"""Guides: what a model is to learn beside its task, added to the loss of each batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from kmr.data import Inputs, Split


@dataclass(frozen=True)
class Batch:
    """What one training step has seen.

    Args:
        places: positions of the samples in the training split.
        inputs: as the model got them.
        targets: of the samples.
        outputs: the model's, with their gradient.
        augmented: whether the inputs differ from those of the split.
    """

    places: Tensor
    inputs: Inputs
    targets: Tensor
    outputs: Tensor
    augmented: bool = False


class Guidance(ABC):
    """A guide at work on one model."""

    parameters: Sequence[nn.Parameter] = ()
    """What is trained along with the model and thrown away after it."""

    @abstractmethod
    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return what is to be minimised, of the loss without this guide."""


class Guide(ABC):
    """Adds to what a fine-tuning minimises. A guide is a frozen dataclass: its fields say all that it does."""

    @abstractmethod
    def attach(self, model: nn.Module, data: Split, original: nn.Module | None) -> AbstractContextManager[Guidance]:
        """Return the guidance of one training, which leaves no trace on the model when the context ends.

        Args:
            model: what is trained.
            data: what it is trained on.
            original: the model before it was compressed, the teacher of a guide that names none.
        """
