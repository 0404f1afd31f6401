"""Iterative pruning: a pruning rule turned in several steps, with fine-tuning between them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from torch import nn

from kmr.core import FloatRange, KMRError, Knob, Rule, Trait, Value
from kmr.core.step import FineTune
from kmr.data import Inputs, Split
from kmr.instantiations.pruning.schedules import SHAPES, Shape, of_the_rest, sparsity_steps
from kmr.instantiations.pruning.unstructured import UnstructuredPruning


@final
@dataclass(frozen=True, kw_only=True)
class Gradual(Rule):
    """Prune to the value in several steps and fine-tune after each but the last, which whatever comes next recovers.

    The knobs are those of the rule that is turned, under this rule's name; with one step it is that rule.

    Args:
        rule: makes the rule from a name, a seed and those of the objects below that it takes.
        finetune: recovery between the steps.
        steps: how many; at least 1.
        shape: see `sparsity_steps`.
        power: of a polynomial shape.
        relative: the rule counts from what it finds, as ratios of channels do, not from the original.
        data: handed to the rule.
        example_inputs: handed to the rule.
    """

    trains: ClassVar[bool] = True
    name: str = "gradual"
    rule: Callable[..., Rule] = UnstructuredPruning
    finetune: FineTune = field(repr=False, compare=False)
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
                raise KMRError(f"{self.name} needs a rule whose knobs are shares to remove, unlike {knob.name}")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Those of the rule that is turned."""
        return self._turned.knobs

    @property
    def leaves(self) -> frozenset[Trait]:
        return self._turned.leaves

    @property
    def precedes(self) -> frozenset[Trait]:
        return self._turned.precedes

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        values = sparsity_steps(float(value), self.steps, self.shape, self.power)
        values = of_the_rest(values) if self.relative else values
        assert isinstance(knob.domain, FloatRange)
        rule = self._turned
        for step, turned in enumerate(values):
            if step:
                model = self.finetune(model)
            # What rounding adds must not leave the domain, and too small a step is none.
            turned = min(max(turned, 0.0), knob.domain.high)
            model = rule(model, knob.name, turned if turned in knob.domain else knob.domain.neutral)
        return model

    @property
    def _turned(self) -> Rule:
        offered: dict[str, Any] = {"data": self.data, "calibration": self.data, "example_inputs": self.example_inputs}
        taken = inspect.signature(self.rule).parameters
        return self.rule(
            name=self.name, seed=self.seed, **{key: value for key, value in offered.items() if key in taken}
        )
