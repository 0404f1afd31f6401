"""Rules: deterministic, pure transformations of a model (Definition 3)."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, final

from torch import nn

from kmr.core.domain import Value
from kmr.core.errors import KMRError
from kmr.core.knob import Knob
from kmr.core.seeding import isolated_rng

Trait: TypeAlias = Literal["structure", "masks", "weight grids", "activation grids"]
"""What a rule can leave in a model that a later rule may spoil: layers of its own, masks, grids, calibrated ranges."""


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """Turns a model, one of its knobs and a value into a new model: T(M, k, v) ↦ M′.

    Calibration data, example inputs and the seed are fields, so that a rule is a function of (M, k, v) alone: the same
    three give a bit-identical model on one machine. `apply` may change the model it is given, since `__call__` hands it
    a copy; the copy is made nowhere else.
    """

    name: str
    seed: int = 0
    version: ClassVar[int] = 1
    """Raised whenever the same (M, k, v) would give another model than before."""
    trains: ClassVar[bool] = False
    """Whether `apply` takes long, as training does: then nothing is asked of it before its trial has its turn."""

    recovers: ClassVar[bool] = False
    """Whether it changes values alone and no cost: what is read before training leaves it out."""

    lowers: ClassVar[str] = "weight_bytes"
    """The cost it is there to lower, by the name of its meter in `conf/meter`; one that recovers lowers none."""

    raises: ClassVar[frozenset[str]] = frozenset()
    """Other costs that it may raise for that, by name; of a rule that says nothing none goes up."""

    @property
    @abstractmethod
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs this rule turns."""

    @property
    def leaves(self) -> frozenset[Trait]:
        """What the model carries after this rule; none by default."""
        return frozenset()

    @property
    def precedes(self) -> frozenset[Trait]:
        """What this rule needs the model not to carry yet, since it would spoil or refuse it; none by default.

        The engine applies moves in whatever order it is told; where orders are searched, those that break this are
        left out (`kmr.policies.legal_orders`).
        """
        return frozenset()

    @abstractmethod
    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        """Transform the model, which may be changed in place, at a value other than the neutral one.

        Raises:
            NotApplicable: the model cannot be transformed this way.
        """

    @final
    def __call__(self, model: nn.Module, knob: str, value: Value) -> nn.Module:
        """Return the transformed model and leave the given one untouched; at the neutral value, return an equal copy.

        Raises:
            KMRError: the rule has no such knob, or the value lies outside its domain.
            NotApplicable: the model cannot be transformed this way.
        """
        turned = {k.name: k for k in self.knobs}.get(knob)
        if turned is None:
            raise KMRError(f"rule {self.name} has no knob {knob}: it turns {', '.join(k.name for k in self.knobs)}")
        turned.check(value)
        copied = copy.deepcopy(model)
        if turned.is_neutral(value):
            return copied
        with isolated_rng(self.seed):
            return self.apply(copied, turned, value)
