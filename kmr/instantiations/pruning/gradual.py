"""Gradual pruning: a pruning rule applied in several steps, with fine-tuning between them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from torch import nn

from kmr.core import FloatRange, KMRError, Knob, Rule, Trait, Value
from kmr.core.step import FineTuning
from kmr.data import Inputs, Split
from kmr.instantiations.pruning.schedules import SHAPES, Shape, of_the_rest, sparsity_steps
from kmr.instantiations.pruning.unstructured import UnstructuredPruning


@final
@dataclass(frozen=True, kw_only=True)
class Gradual(Rule):
    """Pruning to the value in several steps, with fine-tuning after each step except the last.

    The knobs are those of the inner rule, under this rule's name; with one step the result is the inner rule's. The
    last step is left to the run's own fine-tuning.

    Args:
        rule: makes the inner rule from a name, a seed and those of the objects below that it accepts.
        finetune: recovery between the steps.
        steps: number of steps, at least 1.
        shape: see `sparsity_steps`.
        power: exponent of a polynomial shape, at least 1.
        relative: whether the inner rule's value is relative to the current model, like the ratio of structured pruning.
        data: passed to the inner rule.
        example_inputs: passed to the inner rule.

    Raises:
        KMRError: a setting is out of range, or a knob of the inner rule is not a share to remove.
    """

    trains: ClassVar[bool] = True
    name: str = "gradual"
    rule: Callable[..., Rule] = UnstructuredPruning
    finetune: FineTuning = field(repr=False, compare=False)
    steps: int = 4
    shape: Shape = "polynomial"
    power: float = 3.0
    relative: bool = False
    data: Split | None = field(default=None, repr=False, compare=False)
    example_inputs: Inputs = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        sparsity_steps(0.5, self.steps, self.shape, self.power)
        assert self.shape in SHAPES
        for knob in self.knobs:
            if not isinstance(knob.domain, FloatRange) or knob.domain.neutral != 0:
                raise KMRError(f"{self.name} needs a rule whose knobs are shares to remove: {knob.name} is not")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs of the inner rule."""
        return self._inner.knobs

    @property
    def leaves(self) -> frozenset[Trait]:
        return self._inner.leaves

    @property
    def precedes(self) -> frozenset[Trait]:
        return self._inner.precedes

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        values = sparsity_steps(float(value), self.steps, self.shape, self.power)
        values = of_the_rest(values) if self.relative else values
        assert isinstance(knob.domain, FloatRange)
        rule = self._inner
        for step, turned in enumerate(values):
            if step:
                model = self.finetune(model)
            # Rounding must not leave the domain; a step below its smallest value is skipped.
            turned = min(max(turned, 0.0), knob.domain.high)
            model = rule(model, knob.name, turned if turned in knob.domain else knob.domain.neutral)
        return model

    @property
    def _inner(self) -> Rule:
        offered: dict[str, Any] = {"data": self.data, "calibration": self.data, "example_inputs": self.example_inputs}
        taken = inspect.signature(self.rule).parameters
        return self.rule(
            name=self.name, seed=self.seed, **{key: value for key, value in offered.items() if key in taken}
        )
