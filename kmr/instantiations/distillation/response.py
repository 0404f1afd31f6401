"""Response distillation (Algorithm 7; Hinton et al. 2015): a student learns a teacher's outputs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError, Task
from kmr.data import Inputs, Split
from kmr.finetune import Batch, Guidance, Guide
from kmr.instantiations.distillation.layout import classes_last
from kmr.instantiations.distillation.losses import DIVERGENCES, softened
from kmr.instantiations.teachers import Lessons, Teacher, named_teachers, teach
from kmr.tasks import task_for

IGNORED = -100
"""The target of predictions to ignore."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Response(Guide):
    """A loss on a teacher's outputs: (1 − weight)·loss + weight·D, with D the distance to the teacher's outputs.

    Args:
        teacher: a model, several by name (the target is the mean of their softened outputs), or None for the
            uncompressed model.
        temperature: T, the divisor of the logits, above 0.
        weight: weight of the teacher against the task, 0 to 1.
        form: D is T²·KL(teacher ‖ student) (`hinton`), KL(student ‖ teacher) without T² (`paper`), or the mean squared
            difference of the outputs (`mse`, for outputs that are not logits).
        dim: the class dimension of the outputs; None is the task's.
        cache_mb: the limit in MB up to which a teacher's outputs for the training split are cached. 0 computes them for
            each batch, which is faster if training sees few samples. Outputs of augmented samples are never cached.
    """

    teacher: Teacher = field(default=None, repr=False)
    temperature: float = 4.0
    weight: float = 0.9
    form: Literal["hinton", "paper", "mse"] = "hinton"
    dim: int | None = None
    cache_mb: float = 512.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise KMRError(f"the temperature of distillation must be above 0, not {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise KMRError(f"the weight of distillation must lie in [0, 1], not {self.weight}")
        if self.form not in (*DIVERGENCES, "mse"):
            raise KMRError(f"the form of distillation must be {', '.join(DIVERGENCES)} or mse, not {self.form!r}")

    @cached_property
    def _lessons(self) -> Lessons:
        return Lessons(self.cache_mb * 1e6)

    @contextmanager
    def attach(self, model: nn.Module, data: Split, original: nn.Module | None) -> Iterator[Guidance]:
        """Return the guidance of one training."""
        task = data.task if self.form == "mse" or self.dim is not None else task_for(model, data)
        yield _Taught(self, named_teachers(self.teacher, original), data, task)

    def distance(self, outputs: Tensor, taught: Mapping[str, Tensor], targets: Any, task: Task | None = None) -> Tensor:
        """Return D, the mean over predictions whose target is not ignored."""
        for name, answer in taught.items():
            if answer.shape != outputs.shape:
                raise KMRError(
                    f"the teacher {name} returns shape {tuple(answer.shape)}, the student {tuple(outputs.shape)}: they "
                    "must be equal"
                )
        if self.form == "mse":
            mean = torch.stack(list(taught.values())).mean(0)
            return F.mse_loss(outputs.float(), mean)
        dim = -1 if task is None and self.dim is None else self.dim
        answers = {name: classes_last(answer, task, dim) for name, answer in taught.items()}
        teacher = softened(answers, self.temperature, -1)
        distances = DIVERGENCES[self.form](classes_last(outputs, task, dim), teacher, self.temperature, -1)
        if isinstance(targets, Tensor) and targets.shape == distances.shape and not targets.is_floating_point():
            distances = distances[targets != getattr(task, "ignore_index", IGNORED)]
        return distances.mean()


@dataclass(eq=False)
class _Taught(Guidance):
    settings: Response
    teachers: Mapping[str, nn.Module]
    data: Split
    task: Task | None

    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return (1 − weight)·loss + weight·D."""
        how = self.settings
        device = batch.outputs.device
        taught = {
            name: how._lessons.of(teacher, self.data, batch, _answers)["answer"].to(device)
            for name, teacher in self.teachers.items()
        }
        targets = batch.targets.to(device) if isinstance(batch.targets, Tensor) else batch.targets
        return (1 - how.weight) * loss + how.weight * how.distance(batch.outputs, taught, targets, self.task)


def _answers(teacher: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    return {"answer": teach(teacher, inputs)}
