import pytest
import torch
from torch import nn

from kmr.artifact.packing import pack, unpack
from kmr.core import KMRError, NotApplicable, RuleWarning
from kmr.data import Split
from kmr.instantiations.pruning import PatternPruning, UnstructuredPruning, Wanda
from kmr.representation.weights import read_weight


def keep_of(layer: nn.Module) -> torch.Tensor:
    keep = read_weight(layer).keep
    assert keep is not None
    return keep


@pytest.mark.parametrize(("pattern", "kept", "of"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4)])
def test_linear_and_convolution_layers_get_the_pattern_and_it_holds(pattern: str, kept: int, of: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    moved = PatternPruning()(model, "pattern.nonzero", pattern)
    for layer in (moved[0], moved[3]):
        blocks = keep_of(layer).movedim(1, -1).reshape(-1, of)
        assert bool((blocks.sum(1) == kept).all())
    masks = [keep_of(moved[0]).clone(), keep_of(moved[3]).clone()]
    optimizer = torch.optim.AdamW(moved.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        moved(torch.randn(2, 8, 4, 4)).square().sum().backward()
        optimizer.step()
    for layer, keep in zip((moved[0], moved[3]), masks, strict=True):
        assert bool((read_weight(layer).weight[~keep] == 0).all())
    restored = unpack(pack(moved), nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)))
    assert torch.equal(restored[3].weight, moved[3].weight)


def test_uneven_layers_stay_dense_and_none_at_all_is_infeasible() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    with pytest.warns(RuleWarning, match="pattern: 0: left dense: they do not read a multiple of 4 inputs"):
        moved = PatternPruning()(model, "pattern.nonzero", "2:4")
    assert read_weight(moved[0]).keep is None
    with pytest.raises(NotApplicable, match="no layer reads a multiple of 4"):
        PatternPruning()(nn.Linear(6, 2), "pattern.nonzero", "2:4")


def test_what_is_gone_stays_gone_and_a_pattern_that_holds_is_reported() -> None:
    pruned = UnstructuredPruning()(nn.Linear(8, 4), "prune.sparsity", 0.4)
    moved = PatternPruning()(pruned, "pattern.nonzero", "2:4")
    assert bool((~keep_of(moved) | keep_of(pruned)).all())
    assert bool((keep_of(moved).reshape(-1, 4).sum(1) <= 2).all())
    with pytest.warns(RuleWarning, match="they fit 2:4 already"):
        again = PatternPruning()(moved, "pattern.nonzero", "2:4")
    assert torch.equal(keep_of(again), keep_of(moved))


def test_the_criterion_decides() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    x = torch.tensor([[0.0, 0.0, 1.0, 9.0]])
    moved = PatternPruning(criterion=Wanda(), data=Split((x, torch.zeros(1)), 1))(layer, "pattern.nonzero", "2:4")
    assert keep_of(moved).tolist() == [[False, False, True, True]]


def test_bad_settings_are_named() -> None:
    with pytest.raises(KMRError, match="Saliency"):
        PatternPruning(criterion=3)  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="cannot be"):
        PatternPruning()(nn.Linear(4, 4), "pattern.nonzero", "3:4")
