"""Base class of rules that train once, with a teacher's outputs, towards a target."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from kmr.core import KMRError, Knob, NotApplicable
from kmr.data import Split
from kmr.finetune import FineTune, Guide
from kmr.instantiations.distillation import Response
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class TaughtTraining(LayerRule, ABC):
    """A rule that compresses progressively during one training.

    Args:
        ramp: share of the steps during which the compression tightens, in (0, 1].
        updates: number of times it tightens, at least 1.
        teacher: a model, several by name, or None for the original model.
        original: the uncompressed model.
        temperature: temperature of the teacher's outputs.
        weight: weight of the teacher's outputs against the labels, 0 to 1; 0 for no teacher.
        recipe: makes the fine-tuning from data, seed, original and guides; it must keep the last weights.
        data: the training split.

    Raises:
        KMRError: a setting is out of range, or the weight is above 0 without a teacher.
    """

    ramp: float = 0.6
    updates: int = 20
    teacher: Teacher = field(default=None, repr=False)
    original: nn.Module | None = field(default=None, repr=False)
    temperature: float = 4.0
    weight: float = 0.7
    recipe: Callable[..., FineTune] = FineTune
    data: Split | None = field(default=None, repr=False)
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ramp <= 1 or self.updates < 1:
            raise KMRError(f"{self.name} needs a ramp in (0, 1] and updates >= 1, not {self.ramp} and {self.updates}")
        if self.weight > 0 and self.teacher is None and self.original is None:
            raise KMRError(f"{self.name} has no teacher: set original or teacher, or set weight to 0")

    def check_data(self, knob: Knob) -> None:
        """Raise `NotApplicable` if the rule has no data."""
        if self.data is None:
            raise NotApplicable(f"{knob.name}: the rule has no data to train on")

    def train(
        self, model: nn.Module, tighten: Callable[[float], None], after_step: Callable[[], None] = lambda: None
    ) -> nn.Module:
        """Train the model in place.

        Args:
            model: the model.
            tighten: called after each step with the completed share of the ramp, one of `updates` + 1 values.
            after_step: called before `tighten`, while the step's gradients still exist.
        """
        training = self._training()
        also = training.progress

        def progress(done: int, total: int, loss: float) -> None:
            after_step()
            update = min(self.updates, int(self.updates * done / max(1.0, self.ramp * total)))
            tighten(update / self.updates)
            if also is not None:
                also(done, total, loss)

        return replace(training, progress=progress)(model)

    def _training(self) -> FineTune:
        guides: dict[str, Guide] = {}
        if self.weight > 0:
            guides["answers"] = Response(teacher=self.teacher, temperature=self.temperature, weight=self.weight)
        training = self.recipe(data=self.data, seed=self.seed, original=self.original, guides=guides)
        if training.keep == "best" or training.patience is not None:
            raise KMRError(
                f"the recipe of {self.name} must have keep=last and no patience: the best weights may not have reached "
                "the target"
            )
        return training
