"""Pruning, quantization-aware training and distillation in one fine-tuning (JPQD), as a rule."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from kmr.core import Choice, Domain, KMRError, Knob, Trait, Value
from kmr.instantiations.attention import split_attention
from kmr.instantiations.joint.ramp import Ramp
from kmr.instantiations.joint.taught import TaughtTraining
from kmr.representation.weights import settle

_NEUTRAL = "0/32"


@final
@dataclass(frozen=True, kw_only=True)
class JointTraining(TaughtTraining):
    """One training with masks and grids that tighten together to a target, and a teacher's outputs.

    The value is the target, `sparsity/bits`: `0.8/4` ends with 80 % of the governed weights masked and the rest on
    grids of 4 bits. The target is reached after the share `ramp` of the steps; the remaining steps train at the target.
    It is a single training, with one learning rate curve and continuous optimizer momentum. The packed projections of
    attention become separate layers and are compressed too.

    Args:
        sparsities: the sparsities of possible targets, each in [0, 1).
        bits: the bits of possible targets, each 1 to 16, or 32 for no grids.
        start_bits: initial bits of the grids, 1 to 16.
        learned: train the scales with the weights.

    The other arguments are those of `TaughtTraining`.

    Raises:
        KMRError: a setting is out of range, the weight is above 0 without a teacher, or the recipe keeps the best
            weights.
    """

    name: str = "joint"
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    bits: tuple[int, ...] = (8, 6, 4, 3, 2)
    start_bits: int = 8
    learned: bool = False
    raises: ClassVar[frozenset[str]] = frozenset({"trainable_parameters"})  # where scales are learned
    setting: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sparsities", "bits"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if bad := [sparsity for sparsity in self.sparsities if not 0 <= sparsity < 1]:
            raise KMRError(f"sparsities of {self.name} must be in [0, 1), not {', '.join(map(str, bad))}")
        if wrong := [bits for bits in self.bits if not (1 <= bits <= 16 or bits == 32)]:
            raise KMRError(f"bits of {self.name} must be 1 to 16, or 32, not {', '.join(map(str, wrong))}")
        if not 1 <= self.start_bits <= 16:
            raise KMRError(f"start_bits of {self.name} must be 1 to 16, not {self.start_bits}")
        assert self.knobs

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knob `name.target`, or `name.target@pattern` for each pattern of `layers`."""
        targets = [(s, b) for s in self.sparsities for b in self.bits if (s, b) != (0, 32)]
        targets.sort(key=lambda target: (1 - target[0]) * target[1], reverse=True)
        domain: Domain = Choice(tuple(f"{s:g}/{b}" for s, b in targets), neutral=_NEUTRAL)
        whole = f"{self.name}.{self.setting}"
        return tuple(Knob(f"{whole}@{pattern}", domain) for pattern in self.layers) or (Knob(whole, domain),)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"masks", "weight grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        self.check_data(knob)
        sparsity, bits = str(value).split("/")
        model, left = split_attention(model, lambda path: self.reaches(knob, path))
        self.report(left, "attention left as it is: it has keys of its own, shared weights or code of its own")
        ramp = Ramp(self.weights_of(model, knob), float(sparsity), int(bits), self.start_bits, self.learned)
        model = self.train(model, ramp.to)
        if ramp.share < 1:
            # Nothing was trained, or a time limit ended the training early.
            ramp.to(1.0)
            settle(model)
        return model
