"""Teachers' outputs, computed once for a whole split where possible."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kmr.artifact.state_dict import load_weights
from kmr.cache import derived
from kmr.core import KMRError, device_of
from kmr.core.device import autocast
from kmr.data import Inputs, Split, forward
from kmr.finetune import Batch

Teacher: TypeAlias = nn.Module | Mapping[str, nn.Module] | None
"""A model, several by name, or None for the uncompressed model."""


def named_teachers(teacher: Teacher, original: nn.Module | None) -> dict[str, nn.Module]:
    """Return the teachers by name; raise `KMRError` without any."""
    if teacher is None:
        if original is None:
            raise KMRError("distillation has no teacher: set teacher or original")
        return {"original": original}
    return {"teacher": teacher} if isinstance(teacher, nn.Module) else dict(teacher)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for the body, then restore every module's own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def teach(teacher: nn.Module, inputs: Inputs) -> Tensor:
    """Return a teacher's output for a batch, in evaluation mode, full precision and without gradients."""
    with evaluating(teacher), torch.no_grad(), autocast(device_of(teacher), None):
        return forward(teacher, inputs).float()


Says: TypeAlias = Callable[[nn.Module, Inputs], dict[str, Tensor]]
"""A function of (teacher, inputs) that returns target tensors by name, batch first."""


@dataclass(eq=False)
class Lessons:
    """A cache of teachers' outputs for a split, shared by all trainings on it.

    Args:
        limit: maximum bytes of a teacher's outputs for a split; above it, each batch is computed when it is needed.
    """

    limit: float
    kept: dict[tuple[int, Hashable], tuple[nn.Module, Split, tuple[int, ...], dict[str, Tensor]]] = field(
        default_factory=dict, repr=False
    )

    def of(self, teacher: nn.Module, data: Split, batch: Batch, says: Says, what: Hashable = "") -> dict[str, Tensor]:
        """Return a teacher's outputs for a batch of the split.

        The whole split is computed at once, in its own order, so that a batch's outputs do not depend on earlier calls.
        Outputs of augmented inputs are not cached.

        Args:
            teacher: the model.
            data: the split.
            batch: a batch of the split.
            says: computes the outputs.
            what: distinguishes different kinds of outputs of one teacher.
        """
        if batch.augmented or batch.places is None:
            return says(teacher, batch.inputs)
        versions = tuple(tensor._version for tensor in (*teacher.parameters(), *teacher.buffers()))
        known = self.kept.get((id(teacher), what))
        if known is None or known[1] is not data or known[2] != versions:
            one = says(teacher, data.first_inputs())
            if sum(part.numel() * part.element_size() for part in one.values()) * len(data) > self.limit:
                return says(teacher, batch.inputs)

            def all_of_them() -> dict[str, Tensor]:
                batches = [says(teacher, inputs) for inputs, _ in data.batches()]
                return {name: torch.cat([part[name].cpu() for part in batches]) for name in one}

            whole = derived("lessons", all_of_them, teacher=teacher, data=data, says=says, what=str(what))
            known = (teacher, data, versions, whole)
            self.kept[id(teacher), what] = known
        return {name: part[batch.places] for name, part in known[3].items()}


def pretrained(model: nn.Module, weights: str) -> nn.Module:
    """Load weights from a file into a model, in evaluation mode: a teacher for a config.

    Raises:
        KMRError: the file is missing or does not match the model.
    """
    try:
        load_weights(model, weights)
    except KMRError as error:
        raise KMRError(f"the teacher's weights: {error}") from error
    return model.eval()
