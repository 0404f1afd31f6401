"""Every clause of a rule's contract is broken once, and found."""

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from kmr.core import Cost, FloatRange, Knob, NotApplicable, Reading, Rule, Value
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.representation.weights import WeightState, read_weight, write_weight
from kmr.testing import check_rule

KEPT: list[nn.Module] = []
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


@dataclass(frozen=True, kw_only=True)
class Half(Rule):
    """Masks half of the first layer's weights, and then does one more thing."""

    name: str = "half"
    also: Callable[[nn.Module, float], Any] = lambda model, value: None
    neutral: float = 0.0
    raises: ClassVar[frozenset[str]] = frozenset()

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return (Knob(f"{self.name}.share", FloatRange(0.0, 0.9, neutral=self.neutral)),)

    @property
    def leaves(self):
        return frozenset({"masks"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        weight = read_weight(model[0]).weight
        write_weight(model[0], WeightState(weight, keep=weight.abs() > weight.abs().quantile(float(value))))
        return self.also(model, float(value)) or model


class Impure(Half):
    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        KEPT[0][2].bias.data += 1
        return super().apply(model, knob, value)


class ChangesRandomState(Half):
    @property
    def knobs(self) -> tuple[Knob, ...]:
        random.random()  # outside `apply`, where the state is put back
        return super().knobs


class OwnCall(Half):
    def __call__(self, model: nn.Module, knob: str, value: Value) -> nn.Module:  # type: ignore[misc]
        return super().__call__(model, knob, 0.5 if isinstance(value, str) else value)


class OwnNeutral(Half):
    def __call__(self, model: nn.Module, knob: str, value: Value) -> nn.Module:  # type: ignore[misc]
        return super().__call__(model, knob, value or 0.1)


def draw(model: nn.Module, value: float) -> None:
    model[2].bias.data += torch.randn(4, generator=torch.Generator().manual_seed(random.SystemRandom().randrange(9**9)))


def widen(model: nn.Module, value: float) -> None:
    model[2].register_parameter("extra", nn.Parameter(torch.zeros(900)))


def freeze_no_more(model: nn.Module, value: float) -> None:
    model[2].bias.requires_grad_(True)


def leave_gradient(model: nn.Module, value: float) -> None:
    model[2].bias.grad = torch.zeros(4)


def spoil(model: nn.Module, value: float) -> None:
    model[2].bias.data[0] = torch.nan


def hook(model: nn.Module, value: float) -> None:
    model[2].register_forward_hook(print_nothing)


def print_nothing(*_: object) -> None:
    return None


def refuse(model: nn.Module, value: float) -> None:
    raise NotApplicable("not this model")


BROKEN: dict[str, tuple[Rule, str]] = {
    "impure": (Impure(), "changes the model it is given, or the process: tensor 2.bias"),
    "random state": (ChangesRandomState(), "or the process: random state of Python"),
    "random": (Half(also=draw), r"the same \(M, k, v\) gives another model: 2.bias"),
    "no-op": (Half(neutral=0.675), "nothing changes"),
    "domain": (OwnCall(), "surely not a value: it is accepted"),
    "neutral": (OwnNeutral(), "0.0: the neutral value is not the identity"),
    "double": (Half(also=lambda model, _: model.double()), "forward pass raised|dtype"),
    "shape": (Half(also=lambda model, _: nn.Sequential(*model, nn.Linear(4, 2))), r"shape \(6, 2\), not \(6, 4\)"),
    "not finite": (Half(also=spoil), "not finite"),
    "modes": (Half(also=lambda model, _: model.eval()), "a model in training mode is left in evaluation mode"),
    "frozen": (Half(also=freeze_no_more), "frozen parameters are trained again: 2.bias"),
    "gradients": (Half(also=leave_gradient), "gradients are left behind: 2.bias"),
    "hooks": (Half(also=hook), "1 hooks are left behind"),
    "costs": (Half(also=widen), "weight_bytes goes from .*, not down"),
    "not applicable": (Half(also=refuse), "applying it raised NotApplicable: not this model"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found_and_named(name: str) -> None:
    made, violated = BROKEN[name]
    KEPT[:] = [net()]
    with pytest.raises(AssertionError, match=rf"^rule half, half\.share=.*({violated})"):
        check_rule(made, KEPT[0], X, values={"half.share": 0.675})


def test_what_a_rule_says_it_leaves_is_checked() -> None:
    class Silent(Half):
        leaves = frozenset()

    class Boastful(Half):
        leaves = frozenset({"masks", "weight grids"})

    with pytest.raises(AssertionError, match="it leaves masks, but says nothing"):
        check_rule(Silent(), net(), X)
    with pytest.raises(AssertionError, match="says that it leaves masks and weight grids, but leaves masks"):
        check_rule(Boastful(), net(), X)


def test_zeros_that_no_mask_holds_are_found_after_a_step_of_training() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Nonzero(Cost):
        name: str = "nonzero"
        unit: str = field(init=False, default="1")

        def read(self, seen: nn.Module) -> Reading:
            return Reading(float(sum((parameter != 0).sum() for parameter in seen.parameters())))

    class Zeros(Half):
        lowers: ClassVar[str] = "nonzero"
        leaves = frozenset()

        def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
            model[0].weight.data[:6] = 0
            return model

    with pytest.raises(AssertionError, match=r"half\.share=0.675: training raises a cost: nonzero"):
        check_rule(Zeros(), net(), X, costs=[Nonzero()])
    check_rule(Zeros(), net(), costs=[Nonzero()])


def test_what_does_not_survive_saving_is_found() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    class Swaps(Half):
        lowers: ClassVar[str] = "none of the costs read"
        leaves = frozenset()

        def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
            model[2] = Doubled(12, 4).requires_grad_(model[2].weight.requires_grad)
            return model

    with pytest.raises(AssertionError, match=r"half\.share=0.675: saving and loading raised KMRError"):
        check_rule(Swaps(), net(), X)


@pytest.mark.parametrize("made", [Half(), UnstructuredPruning(), WeightQuantization()])
def test_a_rule_that_keeps_its_contract_passes_with_inputs_and_without(made: Rule) -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_rule(made, model, X)
    check_rule(made, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_needs_torch_and_no_test_framework() -> None:
    code = "import sys, kmr.testing; print(sorted({'pytest', 'hypothesis', 'hydra', 'optuna'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
