"""Teachers at work: what they say of a batch, computed once where the batch is always the same."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kmr.cache import derived
from kmr.core import KMRError
from kmr.data import Inputs, Split, forward
from kmr.finetune import Batch

Teacher: TypeAlias = nn.Module | Mapping[str, nn.Module] | None
"""A model, several by name, or None for the model before it was compressed."""


def named_teachers(teacher: Teacher, original: nn.Module | None) -> dict[str, nn.Module]:
    """Return the teachers by name; raise `KMRError` where there is none."""
    if teacher is None:
        if original is None:
            raise KMRError("distillation has no teacher: name one, or hand over the original model")
        return {"original": original}
    return {"teacher": teacher} if isinstance(teacher, nn.Module) else dict(teacher)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and every module back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def teach(teacher: nn.Module, inputs: Inputs) -> Tensor:
    """Return what a teacher says of a batch, in evaluation mode, full precision and without gradients."""
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    with evaluating(teacher), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return forward(teacher, inputs).float()


Says: TypeAlias = Callable[[nn.Module, Inputs], dict[str, Tensor]]
"""Of (teacher, inputs), what is taught, by name; samples first."""


@dataclass(eq=False)
class Lessons:
    """What teachers say of the samples of a split, kept for all trainings on it.

    Args:
        limit: bytes that what a teacher says of a split may take; where it takes more, each batch is computed anew.
    """

    limit: float
    kept: dict[tuple[int, Hashable], tuple[nn.Module, Split, tuple[int, ...], dict[str, Tensor]]] = field(
        default_factory=dict, repr=False
    )

    def of(self, teacher: nn.Module, data: Split, batch: Batch, says: Says, what: Hashable = "") -> dict[str, Tensor]:
        """Return what a teacher says of a batch of the split.

        The whole split is computed at once, in its own order: what a batch gets does not depend on what was asked
        before. Augmented inputs are computed anew.

        Args:
            teacher: the model.
            data: the split.
            batch: of the split.
            says: computes it.
            what: tells it from other things that this teacher says.
        """
        if batch.augmented:
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
    """Return a model with the weights of a safetensors file, in evaluation mode: a teacher that a config names.

    Raises:
        KMRError: there is no such file, or it does not fit.
    """
    from pathlib import Path

    from safetensors import SafetensorError
    from safetensors.torch import load_model

    path = Path(weights).expanduser()
    if not path.is_file():
        raise KMRError(f"no weights at {path}: name a .safetensors file of the teacher")
    try:
        load_model(model, str(path))
    except (SafetensorError, RuntimeError) as error:
        raise KMRError(f"{path} does not fit the teacher: {' '.join(str(error).split())[:300]}") from error
    return model.eval()
