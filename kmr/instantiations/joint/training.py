"""Pruning, quantization-aware training and distillation inside one fine-tuning (JPQD), as a rule."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

from torch import nn

from kmr.core import Choice, Domain, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Split
from kmr.finetune import FineTune, Guide
from kmr.instantiations.attention import split_attention
from kmr.instantiations.distillation import Response
from kmr.instantiations.distillation.teachers import Teacher
from kmr.instantiations.joint.ramp import Ramp
from kmr.instantiations.layers import LayerRule
from kmr.weights import settle

_NEUTRAL = "0/32"


@final
@dataclass(frozen=True, kw_only=True)
class JointTraining(LayerRule):
    """Train once, with masks and grids that tighten together to a target while a teacher's answers are learned.

    The value is the target, `sparsity/bits`: `0.8/4` ends with 80 % of the governed weights masked and the rest on
    grids of 4 bits. After `ramp` of the steps the target is reached, and the rest of them train at it. It is one
    training: one learning rate curve, and an optimizer that keeps its momentum. The packed projections of attention
    become layers of their own and are treated too.

    Args:
        sparsities: to choose targets from, each in [0, 1).
        bits: to choose targets from, each 1 to 16, or 32 for no grids.
        ramp: share of the steps in which masks and grids tighten, in (0, 1].
        updates: times they tighten within it.
        start_bits: bits of the grids at first.
        learned: scales are trained with the weights.
        teacher: a model, several by name, or None for the original model.
        original: the model before it was compressed.
        temperature: of the answers.
        weight: of the answers against the labels; 0 for no teacher.
        recipe: makes the fine-tuning from data, seed, original and guides; it must keep the last weights.
        data: the training split.

    Raises:
        KMRError: a setting is out of range, there is no teacher for a weight above 0, or the recipe keeps the best.
    """

    name: str = "joint"
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    bits: tuple[int, ...] = (8, 6, 4, 3, 2)
    ramp: float = 0.6
    updates: int = 20
    start_bits: int = 8
    learned: bool = False
    teacher: Teacher = field(default=None, repr=False)
    original: nn.Module | None = field(default=None, repr=False)
    temperature: float = 4.0
    weight: float = 0.7
    recipe: Callable[..., FineTune] = FineTune
    data: Split | None = field(default=None, repr=False)
    raises: ClassVar[frozenset[str]] = frozenset({"trainable_parameters"})  # where scales are learned
    setting: ClassVar[str] = "target"
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sparsities", "bits"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if bad := [sparsity for sparsity in self.sparsities if not 0 <= sparsity < 1]:
            raise KMRError(f"the sparsities of {self.name} lie in [0, 1), not {', '.join(map(str, bad))}")
        if wrong := [bits for bits in self.bits if not (1 <= bits <= 16 or bits == 32)]:
            raise KMRError(f"the bits of {self.name} are 1 to 16, or 32, not {', '.join(map(str, wrong))}")
        if not 0 < self.ramp <= 1 or self.updates < 1 or not 1 <= self.start_bits <= 16:
            raise KMRError(
                f"{self.name} needs a ramp in (0, 1], updates >= 1 and start_bits in 1 to 16, not {self.ramp}, "
                f"{self.updates} and {self.start_bits}"
            )
        if self.weight > 0 and self.teacher is None and self.original is None:
            raise KMRError(f"{self.name} has no teacher: give the original model or a teacher, or set weight to 0")
        assert self.knobs

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """`name.target`, or `name.target@pattern` for each pattern of `layers`."""
        targets = [(s, b) for s in self.sparsities for b in self.bits if (s, b) != (0, 32)]
        targets.sort(key=lambda target: (1 - target[0]) * target[1], reverse=True)
        domain: Domain = Choice(tuple(f"{s:g}/{b}" for s, b in targets), neutral=_NEUTRAL)
        whole = f"{self.name}.{self.setting}"
        return tuple(Knob(f"{whole}@{pattern}", domain) for pattern in self.layers) or (Knob(whole, domain),)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"masks", "weight grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        if self.data is None:
            raise NotApplicable(f"{knob.name}: there is no data to learn from")
        sparsity, bits = str(value).split("/")
        model, left = split_attention(model, lambda path: self.reaches(knob, path))
        self.report(left, "attention left as it is: it has keys of its own, shared weights or code of its own")
        training = self._training()
        ramp = Ramp(self.weights_of(model, knob), float(sparsity), int(bits), self.start_bits, self.learned)
        also = training.progress

        def tighten(done: int, total: int, loss: float) -> None:
            update = int(self.updates * done / max(1.0, self.ramp * total))
            ramp.to(update / self.updates)
            if also is not None:
                also(done, total, loss)

        model = replace(training, progress=tighten)(model)
        if ramp.share < 1:
            # Nothing was trained, or a time limit ended it before the target.
            ramp.to(1.0)
            settle(model)
        return model

    def _training(self) -> FineTune:
        guides: dict[str, Guide] = {}
        if self.weight > 0:
            guides["answers"] = Response(teacher=self.teacher, temperature=self.temperature, weight=self.weight)
        training = self.recipe(data=self.data, seed=self.seed, original=self.original, guides=guides)
        if training.keep == "best" or training.patience is not None:
            raise KMRError(
                f"the recipe of {self.name} must keep the last weights, without patience: better ones may come from "
                "before the target was reached"
            )
        return training
