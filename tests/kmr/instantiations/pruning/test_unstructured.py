from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kmr.core import KMRError, RuleWarning
from kmr.instantiations.pruning import UnstructuredPruning, magnitude_keep
from kmr.instantiations.pruning.budgets import erdos_renyi_kernel
from kmr.instantiations.quantization import WeightQuantization
from kmr.representation.weights import WeightState, read_weight, write_weight


def two_layers(first: list[list[float]], second: list[list[float]]) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for layer, values in zip(model, (first, second), strict=True):
        layer.weight.data = torch.tensor(values)
    return model


def weights(model: nn.Module) -> list[Tensor]:
    return [read_weight(layer).weight for layer in model]


def test_the_lowest_of_all_layers_go_and_ties_go_in_order() -> None:
    keep = magnitude_keep([torch.tensor([[3.0, 1.0], [2.0, 2.0]]), torch.tensor([2.0, 0.5])], 0.5)
    assert keep[0].tolist() == [[True, False], [False, True]]
    assert keep[1].tolist() == [True, False]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(0, 20),
)
def test_the_count_is_exact_and_no_kept_score_is_below_a_removed_one(layers: list[list[int]], twentieths: int) -> None:
    scores = [torch.tensor(layer, dtype=torch.float32) for layer in layers]
    keep = torch.cat(magnitude_keep(scores, twentieths / 20))
    flat = torch.cat(scores)
    assert int((~keep).sum()) == int(twentieths / 20 * len(flat) + 0.5)
    if keep.any() and not keep.all():
        assert flat[keep].min() >= flat[~keep].max()


def test_a_sparsity_outside_0_to_1_is_refused() -> None:
    with pytest.raises(KMRError, match=r"not 1\.5"):
        magnitude_keep([torch.ones(2)], 1.5)


def test_global_ranks_across_layers_and_layer_gives_each_its_share() -> None:
    model = two_layers([[4.0, -3.0], [5.0, 6.0]], [[0.1, -0.2], [0.3, 7.0]])
    first, second = weights(UnstructuredPruning()(model, "prune.sparsity", 0.5))
    assert first.tolist() == [[4.0, 0.0], [5.0, 6.0]]
    assert second.tolist() == [[0.0, 0.0], [0.0, 7.0]]
    first, second = weights(UnstructuredPruning(scope="layer")(model, "prune.sparsity", 0.5))
    assert first.tolist() == [[0.0, 0.0], [5.0, 6.0]]
    assert second[1].tolist() == pytest.approx([0.3, 7.0])
    assert second[0].tolist() == [0.0, 0.0]


def test_the_value_counts_what_is_zero_already_and_nothing_comes_back() -> None:
    model = two_layers([[4.0, 3.0], [2.0, 1.0]], [[8.0, 7.0], [6.0, 5.0]])
    once = UnstructuredPruning(layers=("0",))(model, "prune.sparsity@0", 0.5)
    twice = UnstructuredPruning()(once, "prune.sparsity", 0.5)
    first, second = weights(twice)
    assert first.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert second.tolist() == [[8.0, 7.0], [6.0, 5.0]]
    with pytest.warns(RuleWarning, match=r"0, 1: left as they are: at least 0.5 of the weights are zero already"):
        same = UnstructuredPruning()(twice, "prune.sparsity", 0.5)
    assert torch.equal(weights(same)[0], first)


def test_a_masked_weight_goes_before_any_other_whatever_its_value() -> None:
    model = two_layers([[4.0, 3.0], [2.0, 1.0]], [[8.0, 7.0], [6.0, 5.0]])
    write_weight(model[1], WeightState(model[1].weight, None, torch.tensor([[False, True], [True, True]])))
    first, second = weights(UnstructuredPruning()(model, "prune.sparsity", 0.25))
    assert second.tolist() == [[0.0, 7.0], [6.0, 5.0]]
    assert first.tolist() == [[4.0, 3.0], [2.0, 0.0]]


def test_a_layer_that_loses_nothing_gets_no_mask() -> None:
    model = two_layers([[4.0, 3.0], [2.0, 1.0]], [[8.0, 7.0], [6.0, 5.0]])
    moved = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    assert read_weight(moved[0]).keep is not None
    assert read_weight(moved[1]).keep is None


def test_the_grid_stays_and_the_mask_holds_through_a_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    on_grid = WeightQuantization()(model, "quantize.bits", 4)
    pruned = UnstructuredPruning()(on_grid, "prune.sparsity", 0.75)
    state, before = read_weight(pruned[0]), read_weight(on_grid[0])
    assert state.grid is not None
    assert before.grid is not None
    assert torch.equal(state.grid.scale, before.grid.scale)
    assert state.keep is not None
    assert int((state.weight == 0).sum()) == 48
    assert torch.equal(state.weight[state.keep], before.weight[state.keep])
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1.0, momentum=0.9)
    pruned(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    after = read_weight(pruned[0]).weight
    assert bool((after[~state.keep] == 0).all())
    assert not torch.equal(after, state.weight)


def test_scopes_divide_the_sparsity_as_their_names_say() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50, bias=False), nn.Linear(50, 3, bias=False))
    model[1].weight.data *= 0.01

    def kept(scope: Any) -> list[int]:
        moved = UnstructuredPruning(scope=scope)(model, "prune.sparsity", 0.9)
        return [int((read_weight(layer).weight != 0).sum()) for layer in moved]

    assert kept("global") == [215, 0]
    assert kept("layer") == [200, 15]
    assert kept("output") == [200, 15]
    by_erk = [(1 - s) * n for s, n in zip(erdos_renyi_kernel([(50, 40), (3, 50)], 0.9), (2000, 150), strict=True)]
    assert kept("erk") == pytest.approx(by_erk, abs=1)
    scale_free = kept("lamp")
    assert sum(scale_free) == 215
    model[1].weight.data *= 100
    assert kept("lamp") == scale_free
    assert scale_free[1] > 15


def test_a_layer_too_small_for_its_budget_stays_dense_and_says_so() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(100, 100, bias=False))
    with pytest.warns(RuleWarning, match="0: left dense: their Erdős–Rényi-kernel share"):
        moved = UnstructuredPruning(scope="erk")(model, "prune.sparsity", 0.5)
    assert read_weight(moved[0]).keep is None


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.LBFGS])
def test_masks_hold_through_any_optimizer(optimizer: Any) -> None:
    torch.manual_seed(0)
    pruned = UnstructuredPruning()(nn.Linear(8, 8), "prune.sparsity", 0.75)
    keep = read_weight(pruned).keep
    assert keep is not None
    x, steps = torch.randn(4, 8), optimizer(pruned.parameters(), lr=0.1)

    def loss() -> Tensor:
        steps.zero_grad()
        value: Tensor = (pruned(x) - 1).square().sum()
        value.backward()
        return value

    before = read_weight(pruned).weight.clone()
    for _ in range(3):
        steps.step(loss)
    after = read_weight(pruned).weight
    assert bool((after[~keep] == 0).all())
    assert not torch.equal(after, before)
