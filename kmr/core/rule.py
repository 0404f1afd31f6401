"""Rules: deterministic, pure transformations of a model (Definition 3)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, final

from torch import nn

from kmr.core.copying import copied
from kmr.core.device import device_of, has_double
from kmr.core.domain import Value
from kmr.core.errors import KMRError
from kmr.core.key_value_cache import without_key_value_cache
from kmr.core.knob import Knob
from kmr.core.norms import fold_norms
from kmr.core.save_pretrained import refuse_save_pretrained
from kmr.core.seeding import isolated_rng
from kmr.core.transposed_linear import plain_linears

Trait: TypeAlias = Literal["structure", "masks", "weight grids", "activation grids"]
"""A property of a compressed model that a later rule may destroy: changed layers, masks, grids, calibrated ranges."""


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """A transformation of a model at a value of one knob: T(M, k, v) ↦ M′.

    Calibration data, example inputs and the seed are fields, so that a rule is a function of (M, k, v) alone: the same
    three give a bit-identical model on one machine. `apply` may change the model it gets, because `__call__` passes it
    a copy; the copy is made nowhere else.
    """

    name: str
    seed: int = 0
    trains: ClassVar[bool] = False
    """Whether `apply` trains and so takes long: costs are then not read ahead of the trial."""

    recovers: ClassVar[bool] = False
    """Whether the rule changes values alone and no cost; readings of costs before training omit it."""

    lowers: ClassVar[str] = "weight_bytes"
    """The cost that the rule is meant to lower, by the name of its meter in `conf/meter`; a recovery lowers none."""

    raises: ClassVar[frozenset[str]] = frozenset()
    """Other costs that the rule may raise in exchange, by name; none by default."""

    @property
    @abstractmethod
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs that this rule turns."""

    @property
    def leaves(self) -> frozenset[Trait]:
        """The traits that the model has after this rule; none by default."""
        return frozenset()

    @property
    def precedes(self) -> frozenset[Trait]:
        """The traits that this rule would destroy or reject, so that it must come before them; none by default.

        The engine applies moves in any given order; a search over orders skips those that violate this
        (`kmr.policies.legal_orders`).
        """
        return frozenset()

    def governs(self, knob: Knob, path: str) -> bool:
        """Tell whether the knob reaches the module at this path; every module by default."""
        return True

    @abstractmethod
    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        """Transform the model, in place or not, at a value other than the neutral one; return the result.

        Raises:
            NotApplicable: the model cannot be transformed this way.
        """

    @final
    def __call__(self, model: nn.Module, knob: str, value: Value) -> nn.Module:
        """Return the transformed model and leave the given one unchanged; at the neutral value, return an equal copy.

        Raises:
            KMRError: the rule has no such knob, or the value lies outside its domain.
            NotApplicable: the model cannot be transformed this way.
        """
        turned = {k.name: k for k in self.knobs}.get(knob)
        if turned is None:
            raise KMRError(f"rule {self.name} has no knob {knob}: choose {', '.join(k.name for k in self.knobs)}")
        turned.check(value)
        twin = copied(model)
        if turned.is_neutral(value):
            return twin
        fold_norms(twin)
        twin = plain_linears(twin)
        device = device_of(twin)
        if not has_double(device):  # rules decompose and round in double precision
            twin = twin.cpu()
        with isolated_rng(self.seed), without_key_value_cache(twin):
            moved = refuse_save_pretrained(self.apply(twin, turned, value))
        return moved if has_double(device) else moved.to(device)
