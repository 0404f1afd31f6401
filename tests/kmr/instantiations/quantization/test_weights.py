import warnings

import pytest
import torch
from torch import nn

from kmr.core import KMRError, RuleWarning
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization, fit_grid
from kmr.representation.weights import read_weight


def quantize(model: nn.Module, bits: int, **settings: str) -> tuple[nn.Module, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = WeightQuantization(**settings)(model, "quantize.bits", bits)  # type: ignore[arg-type]
    return moved, [str(w.message) for w in caught]


def test_the_rule_puts_the_fitted_grid_on_the_layer() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[-1.0, 2.0], [0.0, 6.0]])
    moved, notes = quantize(layer, 2)
    state = read_weight(moved)
    assert state.grid is not None
    assert state.grid.scale.tolist() == [[1.0], [2.0]]
    assert state.weight.tolist() == [[-1.0, 2.0], [0.0, 6.0]]
    assert notes == []
    # One range, −1…6: Δ = 7/3, and −1 is nearest to code 0 with the code of 0 there as well.
    assert torch.equal(
        read_weight(quantize(layer, 2, granularity="tensor")[0]).weight,
        torch.tensor([[0, 1], [0, 3]]) * (torch.tensor(7.0) / 3),
    )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 3, 3), (3, 1, 1, 1)),
        (nn.ConvTranspose2d(2, 3, 3), (1, 3, 1, 1)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 3, 1, 1)),
        (nn.Embedding(5, 2), (5, 1)),
        (nn.Bilinear(2, 3, 4), (4, 1, 1)),
    ],
)
def test_one_scale_for_each_output_channel(layer: nn.Module, shape: tuple[int, ...]) -> None:
    grid = read_weight(quantize(layer, 4)[0]).grid
    assert grid is not None
    assert grid.scale.shape == shape
    tensor = read_weight(quantize(layer, 4, granularity="tensor")[0]).grid
    assert tensor is not None
    assert tensor.scale.numel() == 1


@pytest.mark.parametrize("scheme", ["affine", "symmetric", "kmr"])
def test_the_same_bits_or_more_again_change_nothing_and_fewer_do(scheme: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    once, _ = quantize(model, 4, scheme=scheme)
    for bits in (4, 8):
        again, notes = quantize(once, bits, scheme=scheme)
        assert torch.equal(again[0].weight, once[0].weight)
        assert read_weight(again[0]).grid.bits == 4  # type: ignore[union-attr]
        assert notes == [f"quantize: 0: left as they are: already in {bits} bits or fewer"]
    fewer, notes = quantize(once, 2, scheme=scheme)
    assert notes == []
    expected = fit_grid(once[0].weight, 2, scheme=scheme, dim=0)(once[0].weight)
    assert torch.equal(fewer[0].weight, expected)


def test_a_mask_stays_and_comes_after_the_grid() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].weight.data += 3  # far from 0, where the paper's levels hold no 0
    pruned = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    moved, _ = quantize(pruned, 3, scheme="kmr")
    before, after = read_weight(pruned[0]), read_weight(moved[0])
    assert before.keep is not None
    assert after.keep is not None
    assert torch.equal(before.keep, after.keep)
    assert torch.equal(after.weight == 0, ~before.keep)


def test_gradients_pass_straight_and_weights_stay_on_the_grid() -> None:
    torch.manual_seed(0)
    moved, _ = quantize(nn.Sequential(nn.Linear(8, 8)), 3)
    before = moved[0].weight.detach().clone()
    optimizer = torch.optim.SGD(moved.parameters(), lr=0.5)
    moved(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    state = read_weight(moved[0])
    assert state.grid is not None
    assert not torch.equal(before, state.weight)
    assert torch.equal(state.grid.values(state.grid.codes(state.weight)), state.weight)
    assert all(len(row.unique()) <= 8 for row in state.weight)


def test_shared_weights_are_left_and_reported() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.warns(RuleWarning, match="quantize: 0, 1: left as they are: the weight is shared"):
        moved = WeightQuantization()(model, "quantize.bits", 4)
    assert [read_weight(layer).grid is None for layer in moved] == [True, True, False]
    assert moved[0].weight is moved[1].weight


def test_settings_outside_their_choices_are_refused() -> None:
    with pytest.raises(KMRError, match="affine, symmetric, midrise, kmr"):
        WeightQuantization(scheme="log")  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="channel or tensor"):
        WeightQuantization(granularity="block")  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="cannot be 9"):
        WeightQuantization()(nn.Linear(2, 2), "quantize.bits", 9)
