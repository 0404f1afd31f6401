"""The interface of tasks: where a model meets its data."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Task(ABC):
    """What a batch means: how it goes into the model, what comes out, the loss, and what is kept of a prediction.

    Fine-tuning, meters, distillation, criteria and runtimes ask the task; none of them guesses an axis or a label.
    """

    @property
    @abstractmethod
    def convention(self) -> str:
        """The shapes of outputs and targets that the task takes, as a part of a sentence."""

    @abstractmethod
    def prepare(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return the model's inputs and the targets of a batch, as the task's other methods take them."""

    @abstractmethod
    def call(self, model: nn.Module, inputs: Any) -> Any:
        """Call a model on a batch, on the model's device, and return what it returns."""

    @abstractmethod
    def outputs(self, returned: Any) -> Any:
        """Return the part of a model's return value that is compared with the targets."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean training loss of a batch, with gradients."""

    def training_loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """Return the loss of a model in training mode on a batch."""
        return self.loss(self.outputs(self.call(model, inputs)), targets)

    @abstractmethod
    def scores(self, outputs: Any, targets: Any) -> Any:
        """Return a batch of predictions with their targets, in the form that meters read.

        Raises:
            KMRError: the shapes or values do not fit; the message gives them and the task's convention.
        """
