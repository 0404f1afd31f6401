import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.artifact.packing import pack, unpack
from kmr.core import NotApplicable, RuleWarning
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightClustering, fit_codebook
from kmr.meters import WeightBytes
from kmr.representation.rounding import look_up
from kmr.representation.weights import Codebook, WeightState, read_weight, settle, write_weight


def test_k_means_by_hand() -> None:
    book = fit_codebook(torch.tensor([[0.0, 0.2, 1.0], [1.2, 5.0, 5.4]]), 1)
    # Two clusters: {0, 0.2, 1, 1.2} and {5, 5.4}.
    assert book.levels.tolist() == pytest.approx([0.6, 5.2])
    assert fit_codebook(torch.tensor([3.0, 3.0, 7.0]), 2).levels.tolist() == [3.0, 7.0]
    assert fit_codebook(torch.zeros(4), 3).levels.tolist() == [0.0]
    kept = fit_codebook(torch.tensor([9.0, 1.0, 2.0]), 1, keep=torch.tensor([False, True, True]))
    assert kept.levels.tolist() == [1.0, 2.0]


def test_no_split_in_two_is_better_than_the_one_found() -> None:
    values = torch.randn(12, generator=torch.Generator().manual_seed(0)).sort().values.double()

    def error(parts: list[torch.Tensor]) -> float:
        return sum(float((part - part.mean()).square().sum()) for part in parts)

    best = min(error(list(values.tensor_split([cut]))) for cut in range(1, 12))
    book = fit_codebook(values, 1)
    assert float((book(values) - values).detach().square().sum()) == pytest.approx(best, rel=1e-6)


def test_levels_that_training_moved_past_one_another_are_still_stored_as_codes() -> None:
    layer = nn.Linear(16, 16, bias=False)
    write_weight(layer, WeightState(layer.weight.detach(), Codebook(torch.tensor([0.3, -0.2, 0.0, 0.1]), 2)))
    assert pack(layer).manifest["weights"]["weight"]["bits"] == 2
    restored = unpack(pack(layer), nn.Linear(16, 16, bias=False))
    assert torch.equal(restored.weight, layer.weight)
    assert set(layer.weight.unique().tolist()) <= set(torch.tensor([0.3, -0.2, 0.0, 0.1]).tolist())


def test_gradients_go_to_weights_straight_and_to_levels_summed() -> None:
    x = torch.tensor([0.1, 0.2, 0.9, 1.4], requires_grad=True)
    levels = torch.tensor([0.0, 1.0], requires_grad=True)
    look_up(x, levels).backward(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 4.0, 8.0]
    assert levels.grad is not None
    assert levels.grad.tolist() == pytest.approx([3 / 2**0.5, 12 / 2**0.5])


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("pruned", [False, True])
def test_few_values_through_training_and_storage(bits: int, pruned: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 8)).eval()
    model = UnstructuredPruning()(base, "prune.sparsity", 0.5) if pruned else base
    moved = WeightClustering()(model, "cluster.bits", bits)
    assert WeightBytes()(moved).value < WeightBytes()(model).value
    before = [read_weight(moved[i]).grid.levels.detach().clone() for i in (0, 2)]  # type: ignore[index, union-attr]
    optimizer = torch.optim.SGD(moved.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        moved(torch.randn(16, 20)).square().mean().backward()
        optimizer.step()
    settle(moved)
    for place, levels in zip((0, 2), before, strict=True):
        state = read_weight(moved[place])  # type: ignore[index]
        assert isinstance(state.grid, Codebook)
        assert not torch.equal(state.grid.levels, levels)
        kept = state.weight if state.keep is None else state.weight[state.keep]
        assert len(kept.unique()) <= 2**bits
    loaded = kmr.load(kmr.save(tmp_path / "m", moved, base=base, builder=Builder("torch.nn.Linear")), base=base)
    x = torch.randn(4, 20)
    assert torch.equal(loaded(x), moved(x))
    assert isinstance(read_weight(loaded[0]).grid, Codebook)  # type: ignore[index]
    for one, other in itertools.pairwise([moved, loaded]):
        assert [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


def test_a_codebook_that_costs_more_than_it_saves_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 2))
    with pytest.warns(RuleWarning, match="cluster: 1: left as they are: their codebook would take more bytes"):
        moved = WeightClustering()(model, "cluster.bits", 8)
    assert read_weight(moved[1]).grid is None  # type: ignore[index]
    with pytest.raises(NotApplicable, match="more bytes than it saves"):
        WeightClustering()(nn.Linear(4, 4), "cluster.bits", 8)
