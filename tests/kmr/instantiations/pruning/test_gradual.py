import functools

import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.pruning import Gradual, StructuredPruning, UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.representation.weights import read_weight

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
DATA = Split((X, (X[:, 0] > 0).long()), 16)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 2)).eval()


class Spy:
    def __init__(self) -> None:
        self.seen: list[float] = []
        self.recipe = FineTune(data=DATA, steps=3)

    def __call__(self, model: nn.Module) -> nn.Module:
        weights = [read_weight(model[0]).weight, read_weight(model[2]).weight]
        self.seen.append(sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights))
        return self.recipe(model)


def test_the_sparsity_follows_the_schedule_with_training_between() -> None:
    spy = Spy()
    moved = Gradual(finetune=spy, steps=3, shape="linear")(mlp(), "gradual.sparsity", 0.9)
    assert spy.seen == pytest.approx([0.3, 0.6], abs=0.002)
    kept = sum(int((read_weight(layer).weight != 0).sum()) for layer in (moved[0], moved[2]))
    assert kept == 40
    again = Gradual(finetune=Spy(), steps=3, shape="linear")(mlp(), "gradual.sparsity", 0.9)
    assert all(torch.equal(a, b) for a, b in zip(moved.parameters(), again.parameters(), strict=True))


def test_one_step_is_the_rule_itself() -> None:
    spy = Spy()
    once = Gradual(finetune=spy, steps=1)(mlp(), "gradual.sparsity", 0.5)
    plain = UnstructuredPruning()(mlp(), "prune.sparsity", 0.5)
    assert spy.seen == []
    assert torch.equal(read_weight(once[0]).weight, read_weight(plain[0]).weight)


def test_ratios_of_channels_count_from_what_is_left() -> None:
    made = functools.partial(StructuredPruning, round_to=1)
    rule = Gradual(
        rule=made, finetune=FineTune(data=DATA, steps=1), steps=2, shape="linear", relative=True, example_inputs=X[:2]
    )
    assert [knob.name for knob in rule.knobs] == ["gradual.ratio"]
    moved = rule(mlp(), "gradual.ratio", 0.5)
    assert moved[0].out_features == 20
    absolute = Gradual(rule=made, finetune=FineTune(data=DATA, steps=1), steps=2, shape="linear", example_inputs=X[:2])
    assert absolute(mlp(), "gradual.ratio", 0.5)[0].out_features == 15


def test_a_rule_that_removes_no_share_is_refused() -> None:
    with pytest.raises(KMRError, match=r"gradual\.bits is not"):
        Gradual(rule=WeightQuantization, finetune=Spy())
    with pytest.raises(KMRError, match="steps >= 1"):
        Gradual(finetune=Spy(), steps=0)
