"""Contract of a rule: pure, deterministic, neutral at the neutral value, and correct about its costs and traits."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kmr.artifact.folder import Builder, load, save
from kmr.core import Cost, KMRError, Knob, Move, Rule, Value, isolated_rng, measure
from kmr.core.domain import rungs
from kmr.data import Inputs, call, forward
from kmr.meters import MACs, Parameters, TrainableParameters, WeightBytes
from kmr.testing.claim import Claim
from kmr.testing.holds import broken_masks, masks, off_grid, traits
from kmr.testing.snapshot import changes, differ, hooks, modes, snapshot, tensors


def check_rule(
    rule: Rule,
    model: nn.Module,
    inputs: Inputs | None = None,
    *,
    values: Mapping[str, Value] | None = None,
    costs: Sequence[Cost] | None = None,
) -> None:
    """Check that a rule keeps its contract on a model, at every knob.

    The rule changes neither the model nor any random state. The same knob and value give the same model. The neutral
    value gives an equal model without a warning, and values outside the domain are refused. Dtypes, train and eval
    modes, frozen parameters and hooks do not change. `leaves`, `lowers` and `raises` are true. The new model runs, can
    be saved and loaded exactly, and a training step keeps its masks and grids and raises no cost.

    Args:
        rule: the rule to check; it must be applicable to the model.
        model: the model to apply it to; it is not changed.
        inputs: a batch as the model takes it, by default the rule's `example_inputs`; without one, outputs are not
            compared and nothing is trained.
        values: knob values by name; by default the middle of each knob's domain. They must change the model.
        costs: the meters to read; by default weight bytes, parameters, trainable parameters and, with inputs, MACs. A
            cost that the rule lowers is checked if it is among them.

    Raises:
        AssertionError: names the rule, the knob, the value and the violation.
    """
    inputs = getattr(rule, "example_inputs", None) if inputs is None else inputs
    if costs is None:
        costs = [WeightBytes(), Parameters(), TrainableParameters()]
        costs += [] if inputs is None else [MACs(example_inputs=inputs)]
    claim = Claim(f"rule {rule.name}")
    claim.check(rule.knobs, "it has no knob")
    names = [knob.name for knob in rule.knobs]
    claim.check(len(set(names)) == len(names), f"two knobs have one name: {names}")
    for knob in rule.knobs:
        value = _value(rule, knob, values or {})
        _OneKnob(rule, knob, value, model, inputs, costs).check()


def _value(rule: Rule, knob: Knob, values: Mapping[str, Value]) -> Value:
    if knob.name in values:
        return values[knob.name]
    climb = rungs(knob.domain, 4)
    Claim(f"rule {rule.name}, {knob.name}").check(climb, f"the domain holds no value but {knob.domain.neutral!r}")
    return climb[len(climb) // 2]


class _OneKnob:
    """The checks for one knob at one value."""

    def __init__(
        self, rule: Rule, knob: Knob, value: Value, model: nn.Module, inputs: Inputs | None, costs: Sequence[Cost]
    ) -> None:
        self._rule, self._knob, self._value = rule, knob, value
        self._model, self._inputs, self._costs = model, inputs, costs
        self._claim = Claim(f"rule {rule.name}, {knob.name}={value}")

    def check(self) -> None:
        model, claim = self._model, self._claim
        before, answer = snapshot(model), self._answer(model)
        moved, _ = self._turned(model, self._value)
        claim.check_none(changes(before, snapshot(model)), "it changes the model it is given, or the process")
        with isolated_rng(1):
            again, _ = self._turned(model, self._value)
        claim.check_none(changes(tensors(moved), tensors(again)), "the same (M, k, v) gives another model")
        claim.check(not differ(self._answer(moved), self._answer(again)), "the same (M, k, v) gives other outputs")
        changed = changes(tensors(model), tensors(moved)) or differ(answer, self._answer(moved))
        claim.check(changed, "nothing changes, and NotApplicable is not raised: choose another value")
        self._check_domain()
        self._check_neutral(answer)
        self._check_form(moved, answer)
        self._check_frozen()
        self._check_costs(moved)
        self._check_saved(moved)
        self._check_trained(moved)

    def _turned(self, model: nn.Module, value: Value) -> tuple[nn.Module, list[str]]:
        with Claim(f"rule {self._rule.name}, {self._knob.name}={value}").runs("applying it") as said:
            moved = self._rule(model, self._knob.name, value)
        return moved, said

    def _answer(self, model: nn.Module) -> Tensor | None:
        """Return the output of a copy of the model in evaluation mode."""
        if self._inputs is None:
            return None
        with self._claim.runs("a forward pass"), torch.no_grad(), isolated_rng(0):
            return forward(copy.deepcopy(model).eval(), self._inputs)

    def _check_domain(self) -> None:
        knob = self._knob
        for name, value in ((knob.name, "surely not a value"), (f"{knob.name}.no_such_knob", self._value)):
            claim = Claim(f"rule {self._rule.name}, {name}={value}")
            try:
                self._rule(self._model, name, value)
            except KMRError:
                continue
            claim.check(False, "it is accepted, though no knob has this name or value: leave Rule.__call__ as it is")
        self._claim.check(knob.domain.neutral in knob.domain, f"the domain does not hold {knob.domain.neutral!r}")

    def _check_neutral(self, answer: Tensor | None) -> None:
        neutral = self._knob.domain.neutral
        claim = Claim(f"rule {self._rule.name}, {self._knob.name}={neutral}")
        same, said = self._turned(self._model, neutral)
        claim.check_none(changes(tensors(self._model), tensors(same)), "the neutral value is not the identity")
        claim.check(not differ(answer, self._answer(same)), "the neutral value changes the outputs")
        claim.check_none(said, "the neutral value warns")

    def _check_form(self, moved: nn.Module, answer: Tensor | None) -> None:
        claim, model, out = self._claim, self._model, self._answer(moved)
        if answer is not None and out is not None:
            claim.check(
                out.shape == answer.shape, f"the output has shape {tuple(out.shape)}, not {tuple(answer.shape)}"
            )
            claim.check(out.dtype == answer.dtype, f"the output has dtype {out.dtype}, not {answer.dtype}")
            claim.check(torch.isfinite(out).all(), "the output is not finite")
            claim.check(not differ(out, self._answer(copy.deepcopy(moved))), "a copy gives other outputs")
        types = {p.dtype for p in model.parameters() if p.is_floating_point()}
        other = [n for n, p in moved.named_parameters() if p.is_floating_point() and p.dtype not in types]
        claim.check_none(other, f"parameters have another dtype than {', '.join(map(str, types))}")
        if all(p.grad is None for p in model.parameters()):
            claim.check_none(
                [n for n, p in moved.named_parameters() if p.grad is not None], "gradients are left behind"
            )
        claim.check(hooks(moved) <= hooks(model), f"{hooks(moved) - hooks(model)} hooks are left behind")
        left = self._rule.leaves - {"structure"}
        claim.check(
            traits(moved) - traits(model) <= left, f"it leaves {_names(traits(moved))}, but says {_names(left)}"
        )
        claim.check(left <= traits(moved), f"it says that it leaves {_names(left)}, but leaves {_names(traits(moved))}")

    def _check_frozen(self) -> None:
        """Check that modes and frozen parameters do not change; rules that lower trainable parameters need some."""
        model = copy.deepcopy(self._model).train()
        for place, module in enumerate(module for module in model.modules() if not list(module.children())):
            module.train(place % 2 == 0)
        if self._rule.lowers != "trainable_parameters":
            for parameter in model.parameters():
                parameter.requires_grad_(False)
        moved, _ = self._turned(model, self._value)
        self._claim.check(moved.training, "a model in training mode is left in evaluation mode")
        before, after = modes(model), modes(moved)
        if before.keys() == after.keys():  # else paths may name other modules than before
            self._claim.check_none(changes(before, after), "modules change between training and evaluation mode")
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        thawed = [name for name, parameter in moved.named_parameters() if parameter.requires_grad and name in frozen]
        self._claim.check_none(thawed, "frozen parameters are trained again")

    def _check_costs(self, moved: nn.Module) -> None:
        rule = self._rule
        with self._claim.runs("measuring costs"):
            before, after = measure(self._model, self._costs), measure(moved, self._costs)
        for name in before:
            if name == rule.lowers and not rule.recovers:
                fell = after[name].value < before[name].value
                self._claim.check(fell, f"{name} goes from {before[name].value:g} to {after[name].value:g}, not down")
            elif name not in rule.raises:
                held = after[name].value <= before[name].value
                says = f"{name} rises from {before[name].value:g} to {after[name].value:g}, which `raises` does not say"
                self._claim.check(held, says)

    def _check_saved(self, moved: nn.Module) -> None:
        with tempfile.TemporaryDirectory() as folder, self._claim.runs("saving and loading"):
            moves = (Move(self._knob.name, self._value),)
            written = Path(folder) / "model"
            save(written, moved, base=self._model, builder=Builder("torch.nn.Module"), sequence=moves)
            loaded = load(written, base=self._model)
        self._claim.check_none(changes(tensors(moved), tensors(loaded)), "the saved and loaded model differs")
        self._claim.check(
            not differ(self._answer(moved), self._answer(loaded)), "the saved and loaded model gives other outputs"
        )

    def _check_trained(self, moved: nn.Module) -> None:
        """Check that a training step keeps masks and grids and raises no cost."""
        self._claim.check_none(off_grid(moved), "weights do not lie on their grid")
        if self._inputs is None or not any(parameter.requires_grad for parameter in moved.parameters()):
            return
        costs: list[Any] = [cost for cost in self._costs if not cost.trained]
        kept, before = masks(moved), measure(moved, costs)
        trained = copy.deepcopy(moved).train()
        with self._claim.runs("a step of training"), isolated_rng(0):
            optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
            call(trained, self._inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._claim.check_none(broken_masks(trained, kept), "training brings masked weights back")
        self._claim.check_none(off_grid(trained), "training takes weights off their grid")
        after = measure(trained, costs)
        rose = [name for name in before if after[name].value > before[name].value]
        self._claim.check_none(rose, "training raises a cost")


def _names(found: Any) -> str:
    return " and ".join(sorted(found)) or "nothing"
