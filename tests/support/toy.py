"""A model of a few numbers, with rules and meters whose every reading is computed by hand."""

from dataclasses import dataclass, field

import torch
from torch import nn

from kmr.core import Cost, FloatRange, Instantiation, Knob, NotApplicable, Quality, Reading, Rule, Value


class Numbers(nn.Module):
    """Holds one parameter; its forward pass adds it to the input."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.values


@dataclass(frozen=True, kw_only=True)
class Total(Cost):
    """Σ|vᵢ|."""

    name: str = "total"
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(sum(p.abs().sum() for p in seen.parameters())))


@dataclass(frozen=True, kw_only=True)
class Largest(Quality):
    """max vᵢ."""

    name: str = "largest"
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(max(p.max() for p in seen.parameters())))


@dataclass(frozen=True, kw_only=True)
class Scale(Rule):
    """Multiplies one entry by 1 − v; factors above 1 (v < 0) raise the cost, index −1 is not applicable."""

    name: str = "scale"
    index: int = 0

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return (Knob(f"{self.name}.by", FloatRange(-1.0, 1.0, neutral=0.0)),)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        if self.index < 0:
            raise NotApplicable("there is no entry -1")
        assert isinstance(model, Numbers)
        with torch.no_grad():
            model.values[self.index] *= 1 - float(value)
        return model


@dataclass(frozen=True, kw_only=True)
class Jitter(Rule):
    """Adds noise that depends on the seed alone."""

    name: str = "jitter"

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return (Knob(f"{self.name}.size", FloatRange(0.0, 1.0, neutral=0.0)),)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        assert isinstance(model, Numbers)
        with torch.no_grad():
            model.values += float(value) * torch.randn(model.values.shape)
        return model


def toy(*rules: Rule) -> Instantiation:
    return Instantiation("toy", rules, (Total(),), (Largest(),))
