"""A knob whose layers an earlier move removed is neutral; one that never had layers is not applicable."""

import pytest
import torch
from torch import nn

from kmr.core import Instantiation, Move, NotApplicable, TransformationSequence, run_sequence
from kmr.core.step import apply_move
from kmr.data import Split
from kmr.instantiations.architecture import DropBlocks
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import Accuracy, WeightBytes

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
SPLIT = Split((X, torch.arange(24) % 6), 24)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.tanh(self.layer(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(6, 6)).eval()


@pytest.fixture
def both():
    rules = (
        DropBlocks(example_inputs=X[:2], layers=("0", "1")),
        WeightQuantization(name="quantize", layers=("0.layer", "missing")),
    )
    return Instantiation("both", rules, (WeightBytes(),), (Accuracy(data=SPLIT),))


def sequence(*moves):
    return TransformationSequence(tuple(Move(*move) for move in moves))


def test_a_move_on_removed_layers_changes_nothing_and_is_said(model, both) -> None:
    trained = []
    removed = run_sequence(model, both, sequence(("depth.ratio@0", 1.0)))
    here = removed.trace.accepted[0].costs["weight_bytes"]
    assert removed.trace.accepted[-1].costs["weight_bytes"].value < here.value
    moves = sequence(("depth.ratio@0", 1.0), ("quantize.bits@0.layer", 4))
    run = run_sequence(model, both, moves, finetune=lambda one: trained.append(one) or one)
    assert run.trace.accepted[-1].readings == removed.trace.accepted[-1].readings
    assert run.trace.accepted[-1].notes == (
        "quantize.bits@0.layer=4: an earlier move removed its layers, so that it changes nothing",
    )
    assert len(trained) == 1
    torch.testing.assert_close(run.model(X), removed.model(X))


def test_a_knob_that_never_had_layers_is_not_applicable(model, both) -> None:
    for base in (None, model):
        with pytest.raises(NotApplicable, match="no layer to change"):
            apply_move(model, both, Move("quantize.bits@missing", 4), base)
    moved, notes = apply_move(model, both, Move("quantize.bits@0.layer", 4), model)
    assert moved is not model
    assert notes == ()
