"""Knowledge distillation as a rule (Algorithm 7): a student of a chosen capacity, trained by a teacher."""

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
"""The attribute of a student that stores its builder's arguments."""


@final
@dataclass(frozen=True, kw_only=True)
class Distillation(Rule):
    """A student of smaller capacity, or further training of the model, with a teacher's outputs.

    `width` and `depth` make the student. With a builder they are its arguments, and the student starts with random
    weights. Without a builder they are the shares of channels (`StructuredPruning`) and blocks (`DropBlocks`) that
    stay, and the student inherits its weights. `temperature`, `weight` and `pairs` do not change the capacity. Every
    move ends with a training on the teacher's outputs. A move of `temperature` or `weight` sets that parameter of
    `Response`; a move of `pairs` adds hints from that many of the deepest pairs of modules.

    Args:
        turn: the knobs to offer, from width, depth, temperature, weight and pairs.
        student: builds a student from `width=` and `depth=`; its defaults are the model's own values.
        widths: possible widths with a builder, from wide to narrow.
        depths: possible depths with a builder, from deep to shallow.
        teacher: a model, several by name, or None for the original model.
        original: the uncompressed model.
        temperature: the temperature of `Response`.
        weight: the weight of the teacher's outputs against the labels, 0 to 1.
        hints: pairs of modules for `pairs`, {path in the student: path in the teacher}; by default stages of the same
            name.
        recipe: makes the fine-tuning from data, seed, original and guides.
        data: the training split; None trains nothing.
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
            raise KMRError(f"{self.name} has no knob {', '.join(unknown)}: choose from {', '.join(known)}")
        for name, values in (("width", self.widths), ("depth", self.depths)):
            if self.student is None and values:
                raise KMRError(f"{self.name} has {name}s but no builder for them: set student")
            if self.student is not None and name in self.turn and not values:
                raise KMRError(f"{self.name} turns {name} of a built student but has no values for it: set {name}s")
        if self.student is not None:
            self._defaults()

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs `name.width`, `name.depth`, … listed in `turn`."""
        return tuple(Knob(f"{self.name}.{name}", self._domain(name)) for name in self.turn)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"} if {"width", "depth"} & {*self.turn} else ())

    @property
    def precedes(self) -> frozenset[Trait]:
        if self.student is not None:
            # A built student loses what other rules did, so the rule must come first.
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
                    raise NotApplicable(f"{knob.name}: hints need a single teacher, not {len(self.teacher)}")
                guides["hints"] = Hints(teacher=self.teacher, pairs=self.hints, count=int(value))
        if self.data is None:
            if setting not in ("width", "depth"):
                raise NotApplicable(f"{knob.name}: the rule has no data to train on")
            warnings.warn(RuleWarning(f"{self.name}: the student is not trained: the rule has no data"), stacklevel=2)
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
        """Return the builder's default width and depth, which are those of the model."""
        assert self.student is not None
        taken = inspect.signature(self.student).parameters
        found: dict[str, Any] = {}
        for name in ("width", "depth"):
            if name in self.turn:
                default = taken[name].default if name in taken else inspect.Parameter.empty
                if default is inspect.Parameter.empty:
                    raise KMRError(f"the student builder of {self.name} must have an argument {name} with a default")
                found[name] = default
        return found

    def _built(self, model: nn.Module, knob: Knob, changed: Mapping[str, Value]) -> nn.Module:
        """Return a new student, built with the model's arguments except for one."""
        assert self.student is not None
        before: dict[str, Any] = dict(getattr(model, _BUILT, {}))
        like = self.student(**before)
        ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if ours != {name: tensor.shape for name, tensor in like.state_dict().items()}:
            raise NotApplicable(
                f"{knob.name}: a newly built student would lose the changes of other rules: put {self.name} before them"
            )
        settings = {**before, **changed}
        student = self.student(**settings).train(model.training)
        setattr(student, _BUILT, settings)
        if sum(p.numel() for p in student.parameters()) >= sum(p.numel() for p in model.parameters()):
            raise NotApplicable(f"{knob.name}: a student built with {settings} has no fewer parameters")
        return student
