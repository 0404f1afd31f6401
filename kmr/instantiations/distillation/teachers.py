"""Teachers at work: what they say of a batch, computed once where the batch is always the same."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

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


@dataclass(eq=False)
class Lessons:
    """What teachers say of the samples of a split, kept for all trainings on it.

    Args:
        limit: bytes of a teacher's outputs past which they are computed for each batch instead.
    """

    limit: float
    kept: dict[int, tuple[nn.Module, Split, tuple[int, ...], Tensor]] = field(default_factory=dict, repr=False)

    def of(self, teacher: nn.Module, data: Split, batch: Batch) -> Tensor:
        """Return a teacher's outputs for a batch of the split.

        The whole split is computed at once, in its own order: what a batch gets does not depend on what was asked
        before. Augmented inputs are computed anew.
        """
        if batch.augmented:
            return teach(teacher, batch.inputs)
        versions = tuple(tensor._version for tensor in (*teacher.parameters(), *teacher.buffers()))
        known = self.kept.get(id(teacher))
        if known is None or known[1] is not data or known[2] != versions:
            one = teach(teacher, data.first_inputs())
            if one.numel() * 4 * len(data) > self.limit:
                return teach(teacher, batch.inputs)
            outputs = torch.cat([teach(teacher, inputs).cpu() for inputs, _ in data.batches()])
            known = (teacher, data, versions, outputs)
            self.kept[id(teacher)] = known
        return known[3][batch.places]


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
