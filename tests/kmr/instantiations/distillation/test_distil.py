import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import KMRError, Move, NotApplicable, RuleWarning
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.distillation import Distillation
from kmr.instantiations.pruning import UnstructuredPruning
from sweeps.examples.cifar import BasicBlock, resnet

INPUTS = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DATA = Split((INPUTS, torch.arange(8) % 10), 4)
BUILT = {"student": partial(resnet, depth=14, width=8), "widths": (6, 4), "depths": (8,)}


def base() -> nn.Module:
    with kmr.isolated_rng(0):
        return resnet(depth=14, width=8).eval()


def turned(knob: str, value: Any, model: nn.Module | None = None, **settings: Any) -> nn.Module:
    fields = {"example_inputs": INPUTS[:2], "data": DATA, "original": base(), "recipe": partial(FineTune, steps=2)}
    rule = Distillation(**{**fields, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        return rule(model or base(), f"distil.{knob}", value)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_students_from_the_model_inherit_its_weights() -> None:
    untrained = turned("width", 0.5, data=None)
    assert parameters(untrained) < parameters(base())
    rows = {tuple(row.flatten().tolist()) for row in base().layer1[0].conv1.weight}
    assert all(tuple(row[:4].flatten().tolist()) in rows or row.numel() for row in untrained.layer1[0].conv1.weight)
    shorter = turned("depth", 0.0, data=None)
    left = [path for path, module in shorter.named_modules() if isinstance(module, BasicBlock)]
    assert left == ["layer2.0", "layer3.0"]
    assert torch.equal(shorter.layer2[0].conv1.weight, base().layer2[0].conv1.weight)
    trained = turned("depth", 0.0)
    assert not torch.equal(trained.layer2[0].conv1.weight, base().layer2[0].conv1.weight)


def test_students_from_a_builder(tmp_path: Any) -> None:
    narrow = turned("width", 4, **BUILT)
    assert parameters(narrow) == parameters(resnet(depth=14, width=4))
    both = turned("depth", 8, narrow, **BUILT)
    assert parameters(both) == parameters(resnet(depth=8, width=4))
    assert torch.equal(narrow.conv1.weight, turned("width", 4, **BUILT).conv1.weight)
    moves = [Move("distil.width", 4), Move("distil.depth", 8)]
    saved = kmr.save(tmp_path / "student", both, base=base(), builder=Builder("a:b"), sequence=moves)
    loaded = kmr.load(saved, base=base())
    assert torch.equal(loaded(INPUTS), both.eval()(INPUTS))
    assert parameters(turned("width", 4, turned("depth", 8, **BUILT), **BUILT)) == parameters(both)
    assert torch.equal(turned("width", 8, **BUILT).conv1.weight, base().conv1.weight), "the default is the model itself"


def test_a_builder_would_lose_what_other_rules_did() -> None:
    pruned = UnstructuredPruning()(base(), "prune.sparsity", 0.5)
    with pytest.raises(NotApplicable, match="before them"):
        turned("width", 4, pruned, **BUILT)


@pytest.mark.parametrize(("knob", "value"), [("temperature", 2.0), ("weight", 0.5), ("pairs", 2)])
def test_the_other_knobs_train_and_keep_the_capacity(knob: str, value: Any) -> None:
    model = turned(knob, value, turn=(knob,))
    assert parameters(model) == parameters(base())
    assert not torch.equal(model.conv1.weight, base().conv1.weight)
    other = {"temperature": 8.0, "weight": 1.0, "pairs": 1}[knob]
    assert not torch.equal(model.conv1.weight, turned(knob, other, turn=(knob,)).conv1.weight)


def test_bad_settings_are_refused() -> None:
    for bad in (
        {"turn": ("size",)}, {"widths": (4,)}, {"student": resnet, "widths": (4,)},
        {"student": lambda width: None, "widths": (4,), "depths": (8,)},
    ):  # fmt: skip
        with pytest.raises(KMRError):
            Distillation(example_inputs=INPUTS, **bad)
    with pytest.raises(NotApplicable, match="no data"):
        turned("weight", 0.5, turn=("weight",), data=None)
