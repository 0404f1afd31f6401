"""Knowledge distillation as a rule (Algorithm 7): a student of some capacity, trained with the help of a teacher."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from torch import nn

from kmr.core import (
    Choice,
    Domain,
    FloatRange,
    IntRange,
    KMRError,
    Knob,
    NotApplicable,
    Rule,
    RuleWarning,
    Trait,
    Value,
)
from kmr.data import Inputs, Split
from kmr.finetune import FineTune, Guide
from kmr.instantiations.architecture import DropBlocks
from kmr.instantiations.distillation.hints import Hints
from kmr.instantiations.distillation.response import Response
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.teachers import Teacher

_BUILT = "kmr_student"
"""The attribute in which a built student keeps the arguments it was built with."""


@final
@dataclass(frozen=True, kw_only=True)
class Distillation(Rule):
    """Turn the model into a student of less capacity, or only go on training it, with a teacher's help.

    `width` and `depth` make the student. With a builder they are arguments of it, and the student is built anew with
    random weights. Without one they are the shares of channels (`StructuredPruning`) and of blocks (`DropBlocks`) that
    stay, and the student begins with the weights it inherits. `temperature`, `weight` and `pairs` leave the capacity as
    it is. Every move ends with a training in which `answers` of the teacher are learned; a move of `temperature` or
    `weight` sets that of the answers, one of `pairs` adds hints from that many pairs of modules, the deepest ones.

    Args:
        turn: which knobs there are, of width, depth, temperature, weight and pairs.
        student: builds a student, called with `width=` and `depth=`; its default values are the model's own.
        widths: what width may be with a builder, the narrower the later.
        depths: what depth may be with a builder.
        teacher: a model, several by name, or None for the original model.
        original: the model before it was compressed.
        temperature: of the answers.
        weight: of the answers against the labels.
        hints: pairs of modules for `pairs`, {path in the student: path in the teacher}; empty pairs the stages of the
            same name.
        recipe: makes the fine-tuning from data, seed, original and guides.
        data: the training split; without one nothing is trained.
        example_inputs: a batch as `kmr.data.forward` takes it.
    """

    trains: ClassVar[bool] = True
    name: str = "distil"
    turn: tuple[str, ...] = ("width", "depth")
    student: Callable[..., nn.Module] | None = None
    widths: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    teacher: Teacher = field(default=None, repr=False)
    original: nn.Module | None = field(default=None, repr=False)
    temperature: float = 4.0
    weight: float = 0.9
    hints: Mapping[str, str] = field(default_factory=dict)
    recipe: Callable[..., FineTune] = FineTune
    data: Split | None = field(default=None, repr=False)
    example_inputs: Inputs = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("turn", "widths", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        known = ("width", "depth", "temperature", "weight", "pairs")
        if unknown := [name for name in self.turn if name not in known]:
            raise KMRError(f"{self.name} has no knob {', '.join(unknown)}: there are {', '.join(known)}")
        for name, values in (("width", self.widths), ("depth", self.depths)):
            if self.student is None and values:
                raise KMRError(f"{self.name} can take {name}s only with a student, what builds a model of each")
            if self.student is not None and name in self.turn and not values:
                raise KMRError(f"{self.name} needs the {name}s that its student may be built with: set {name}s")
        if self.student is not None:
            self._defaults()

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """`name.width`, `name.depth`, …, as `turn` says."""
        return tuple(Knob(f"{self.name}.{name}", self._domain(name)) for name in self.turn)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"} if {"width", "depth"} & {*self.turn} else ())

    @property
    def precedes(self) -> frozenset[Trait]:
        if self.student is not None:
            # It is built anew: what other rules did would be lost, and is refused.
            return frozenset({"structure", "masks", "weight grids", "activation grids"})
        return frozenset({"activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        setting = knob.name.rpartition(".")[2]
        guides: dict[str, Guide] = {}
        temperature, weight = self.temperature, self.weight
        match setting:
            case "width" | "depth" if self.student is not None:
                model = self._built(model, knob, {setting: value})
            case "width":
                cut = StructuredPruning(name=self.name, example_inputs=self.example_inputs)
                model = cut.apply(model, cut.knobs[0], 1 - float(value))
            case "depth":
                shorten = DropBlocks(name=self.name, example_inputs=self.example_inputs, data=self.data)
                model = shorten.apply(model, shorten.knobs[0], 1 - float(value))
            case "temperature":
                temperature = float(value)
            case "weight":
                weight = float(value)
            case "pairs":
                if isinstance(self.teacher, Mapping):
                    raise NotApplicable(f"{knob.name}: hints come from one teacher, not from several")
                guides["hints"] = Hints(teacher=self.teacher, pairs=self.hints, count=int(value))
        if self.data is None:
            if setting not in ("width", "depth"):
                raise NotApplicable(f"{knob.name}: there is no data to learn from")
            warnings.warn(RuleWarning(f"{self.name}: the student is not trained: there is no data"), stacklevel=2)
            return model
        guides["answers"] = Response(teacher=self.teacher, temperature=temperature, weight=weight)
        settings = {"data": self.data, "seed": self.seed, "original": self.original, "guides": guides}
        return self.recipe(**settings)(model)

    def _domain(self, name: str) -> Domain:
        if name in ("width", "depth") and self.student is not None:
            return Choice(self.widths if name == "width" else self.depths, neutral=self._defaults()[name])
        match name:
            case "width":
                return FloatRange(0.1, 1.0, neutral=1.0)
            case "depth":
                return FloatRange(0.0, 1.0, neutral=1.0)
            case "temperature":
                return FloatRange(1.0, 20.0, neutral=0.0)
            case "weight":
                return FloatRange(0.0, 1.0, neutral=0.0)
        return IntRange(1, max(1, len(self.hints) or 8), neutral=0)

    def _defaults(self) -> dict[str, Any]:
        """Return the width and depth that the builder gives by itself: those of the model it built."""
        assert self.student is not None
        taken = inspect.signature(self.student).parameters
        found: dict[str, Any] = {}
        for name in ("width", "depth"):
            if name in self.turn:
                default = taken[name].default if name in taken else inspect.Parameter.empty
                if default is inspect.Parameter.empty:
                    raise KMRError(f"the student of {self.name} must take {name} and have a default for it")
                found[name] = default
        return found

    def _built(self, model: nn.Module, knob: Knob, changed: Mapping[str, Value]) -> nn.Module:
        """Return a new student with one argument changed from those that the model was built with."""
        assert self.student is not None
        before: dict[str, Any] = dict(getattr(model, _BUILT, {}))
        like = self.student(**before)
        ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if ours != {name: tensor.shape for name, tensor in like.state_dict().items()}:
            raise NotApplicable(
                f"{knob.name}: the student is built anew, and what other rules did to the model would be lost: put "
                f"{self.name} before them"
            )
        settings = {**before, **changed}
        student = self.student(**settings).train(model.training)
        setattr(student, _BUILT, settings)
        if sum(p.numel() for p in student.parameters()) >= sum(p.numel() for p in model.parameters()):
            raise NotApplicable(f"{knob.name}: a student built with {settings} has no fewer parameters")
        return student
