import warnings

import pytest
import torch
from torch import nn

from kmr.core import KMRError, NotApplicable, RuleWarning
from kmr.instantiations.layer_rule import matches
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.pruning.saliency import Magnitude
from kmr.representation.weights import read_weight


def sparsity(layer: nn.Module) -> float:
    return float((read_weight(layer).weight == 0).float().mean())


def test_a_pattern_reaches_what_is_inside_the_modules_it_names() -> None:
    assert matches("layer1.0.conv1", "layer1.0.conv1")
    assert matches("layer1.0.conv1", "layer1")
    assert matches("layer1.0.conv1", "layer1.*")
    assert matches("", "*")
    assert not matches("layer10", "layer1")
    assert not matches("layer1", "layer1.0")


def test_one_knob_for_the_model_or_one_for_each_pattern() -> None:
    assert [k.name for k in UnstructuredPruning().knobs] == ["prune.sparsity"]
    rule = UnstructuredPruning(name="cut", layers=["0", "2"])  # type: ignore[arg-type]
    assert [k.name for k in rule.knobs] == ["cut.sparsity@0", "cut.sparsity@2"]
    assert isinstance(rule.criterion, Magnitude)
    assert rule == eval(repr(rule))
    assert hash(rule) == hash(eval(repr(rule)))


def test_a_layer_knob_changes_its_layers_only_and_excluded_ones_never() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    moved = UnstructuredPruning(layers=("0", "2"))(model, "prune.sparsity@2", 0.5)
    assert (sparsity(moved[0]), sparsity(moved[2])) == (0.0, 0.5)
    moved = UnstructuredPruning(exclude=("2",))(model, "prune.sparsity", 0.25)
    assert (sparsity(moved[0]), sparsity(moved[2])) == (0.25, 0.0)


def test_layers_of_a_group_share_a_knob() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    rule = UnstructuredPruning(layers=("ends", "2"), groups={"ends": ["0", "3", "4"]}, exclude=("4",), scope="layer")  # type: ignore
    assert [knob.name for knob in rule.knobs] == ["prune.sparsity@ends", "prune.sparsity@2"]
    moved = rule(model, "prune.sparsity@ends", 0.5)
    assert [sparsity(moved[index]) for index in (0, 2, 3, 4)] == [0.5, 0.0, 0.5, 0.0]
    assert rule == eval(repr(rule))
    assert hash(rule) == hash(eval(repr(rule)))
    with pytest.raises(KMRError, match="group ends of prune has no pattern"):
        UnstructuredPruning(layers=("ends",), groups={"ends": ()})


def test_weights_out_of_reach_are_reported_in_one_line_for_each_reason() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.rnn = nn.GRU(4, 4)
            self.table = nn.Parameter(torch.randn(2, 2))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        UnstructuredPruning()(Mixed(), "prune.sparsity", 0.5)
    assert [w.category for w in caught] == [RuleWarning, RuleWarning]
    assert str(caught[0].message) == "prune: a, b: left as they are: the weight is shared with another module"
    assert str(caught[1].message).startswith("prune: rnn.weight_hh_l0, rnn.weight_ih_l0, table: left as they are")


def test_nothing_to_change_says_why() -> None:
    with pytest.raises(NotApplicable, match=r"prune\.sparsity@3: no layer to change"):
        UnstructuredPruning(layers=("3",))(nn.Sequential(nn.Linear(2, 2)), "prune.sparsity@3", 0.5)
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.warns(RuleWarning), pytest.raises(NotApplicable, match="shared"):
        UnstructuredPruning()(tied, "prune.sparsity", 0.5)


def test_settings_outside_their_choices_are_refused() -> None:
    with pytest.raises(KMRError, match=r"the scope of prune must be one of global, layer, .*, not 'all'"):
        UnstructuredPruning(scope="all")  # type: ignore[arg-type]
