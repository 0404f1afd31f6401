from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from kmr.data import forward
from kmr.instantiations.attention import split_attention
from kmr.instantiations.joint.units import find_groups, find_units, put_masks
from kmr.instantiations.pruning.graph import Graph
from kmr.instantiations.pruning.surgery import cut

SOME = [
    "vgg",
    "option_a",
    "residual",
    "view_mlp",
    "groups",
    "concat",
    "attention",
    "tuple_inputs",
    "tied",
    "lstm",
    "transformer",
]


class IntoLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen, self.recurrent, self.head = nn.Linear(4, 6), nn.LSTM(6, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.recurrent(self.widen(x))[0][:, -1])
        return out


def everywhere(path: str) -> bool:
    return True


@pytest.mark.parametrize("name", SOME)
def test_a_model_under_masks_computes_what_the_smaller_one_does(case: Any, name: str) -> None:
    model, inputs = case(name)
    if name == "groups":
        model[5] = nn.Identity()
    if name == "transformer":
        model, _ = split_attention(model, everywhere)
    groups, _ = find_groups(model, inputs, everywhere)
    assert groups
    units = find_units(model, groups)
    gone = torch.zeros(len(units.channels), dtype=torch.bool)
    for place in range(len(groups)):
        gone[torch.nonzero(units.sets == place).reshape(-1)[1::3]] = True
    smaller = cut(model, inputs, Graph(model, inputs), units.gone_channels(gone)).model
    masks = put_masks(model, units)
    for mask in masks.values():
        mask.there[:-1] = ~gone
    with torch.no_grad():
        assert torch.allclose(forward(model, inputs), forward(smaller, inputs), atol=1e-5)
    assert not any(parametrize.is_parametrized(layer) for layer in smaller.modules())


def test_units_know_their_share_of_what_layers_read_and_make(case: Any) -> None:
    model, inputs = case("vgg")
    units = find_units(model, find_groups(model, inputs, everywhere)[0])
    counts = {group.root: int(count) for group, count in zip(units.groups, units.counts, strict=True)}
    assert counts == {"0": 8, "4": 12, "8": 16}
    of = {group.root: units.sets == place for place, group in enumerate(units.groups)}
    for path, root, shares in (("4", "0", units.reads), ("8", "4", units.reads), ("4", "4", units.makes)):
        assert shares[path].tolist() == pytest.approx((of[root] / counts[root]).tolist())
    second = int(torch.nonzero(of["4"])[1])
    assert (units.owners["8"][:, 16:32] == second).all(), "the 16 places of a channel before it was flattened"
    assert (units.owners["8"] == second).sum() == 16 * 16


def test_heads_and_blocks_go_as_wholes(case: Any) -> None:
    model, inputs = case("groups")
    groups, left = find_groups(model, inputs, everywhere)
    assert left == {"left whole: a normalisation over channels uses them": ["4"]}
    units = find_units(model, groups)
    first = next(place for place, group in enumerate(groups) if "0" in group.makers)
    assert units.counts[first] == 4, "the second convolution has two groups of four"
    assert units.channels[int(torch.nonzero(units.sets == first)[0])].tolist() == [0, 4]
    model, inputs = case("transformer")
    model, _ = split_attention(model, everywhere)
    groups, left = find_groups(model, inputs, everywhere)
    units = find_units(model, groups)
    heads = [int(count) for group, count in zip(groups, units.counts, strict=True) if group.heads > 1]
    assert heads == [4, 4]
    assert "left whole: a normalisation over channels uses them" in left


def test_what_stays_whole_is_told_with_the_reason(case: Any) -> None:
    model, inputs = case("option_a")
    groups, left = find_groups(model, inputs, everywhere)
    assert {group.root for group in groups} == {"layer1.conv1", "layer2.conv1"}
    assert any("cannot" in why for why in left)
    model, inputs = case("tied")
    groups, left = find_groups(model, inputs, everywhere)
    assert "left whole: their weights are shared" in left
    assert [group.makers for group in groups] == [("hidden",)]
    groups, left = find_groups(IntoLSTM(), torch.randn(2, 5, 4), everywhere)
    assert groups == []
    assert left == {"left whole: no weight of known layout reads their channels": ["widen"]}


def test_groups_outside_what_is_governed_are_left_alone(case: Any) -> None:
    model, inputs = case("vgg")
    groups, left = find_groups(model, inputs, lambda path: path != "4")
    assert {group.root for group in groups} == {"0", "8"}
    assert left == {}
