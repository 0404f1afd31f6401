import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import Move, NotApplicable
from kmr.data import Split
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.lowrank.pairs import find_pairs
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import StaticQuantization, WeightQuantization
from kmr.representation.weights import read_weight


def small() -> Any:
    with kmr.isolated_rng(0):
        return nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(108, 16), nn.Linear(16, 16)
        ).eval()


X = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
DATA = Split((X * torch.linspace(0.1, 3, 6), torch.zeros(64)), 16)


def factorise(model: nn.Module, keep: float, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LowRank(**settings)(model, "lowrank.keep", keep)


def product(pair: Any) -> Tensor:
    return (pair.second.weight.flatten(1) @ pair.first.weight.flatten(1)).detach()


@pytest.mark.parametrize("settings", [{}, {"by": "rank"}, {"error": "outputs", "data": DATA}])
def test_two_truncations_are_the_last_alone(settings: dict[str, Any]) -> None:
    model = small()
    once, twice = factorise(model, 0.3, **settings), factorise(factorise(model, 0.7, **settings), 0.3, **settings)
    for place in (0, 3):
        assert [name for name, _ in twice[place].named_modules()] == ["", "first", "second"], "not factors of factors"
        assert twice[place].first.weight.shape == once[place].first.weight.shape
        matrix = model[place].weight.flatten(1)
        # Eckart and Young: the best of one rank keeps the leading singular vectors, and with them that of the next.
        if "data" not in settings:
            left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
            rank = len(once[place].first.weight)
            best = (left[:, :rank] * singular[:rank]) @ right[:rank]
            torch.testing.assert_close(product(twice[place]), best, rtol=1e-4, atol=1e-5)
        if place == 0:  # what comes to later layers depends on how far the first was truncated
            torch.testing.assert_close(product(twice[place]), product(once[place]), rtol=1e-4, atol=1e-5)
    if "data" not in settings:
        torch.testing.assert_close(twice(X), once(X), rtol=1e-4, atol=1e-5)


def test_half_of_a_product_is_left() -> None:
    once = factorise(small(), 0.7)
    rule = LowRank(layers=("3.first", "4"))
    with pytest.raises(NotApplicable, match="no layer would hold fewer"), pytest.warns(match="half of two factors"):
        rule(once, "lowrank.keep@3.first", 0.3)


def test_energy_is_that_of_the_product() -> None:
    model = small()
    once = factorise(model, 0.8, by="energy")
    twice = factorise(once, 0.8, by="energy")
    singular = torch.linalg.svdvals(product(once[3])).square()
    rank = len(twice[3].first.weight)
    assert rank < len(once[3].first.weight)
    assert singular[:rank].sum() >= 0.8 * singular.sum() > singular[: rank - 1].sum()


def test_a_rank_that_is_no_lower_leaves_the_factors() -> None:
    once = factorise(small(), 0.3)
    with pytest.raises(NotApplicable, match="no layer would hold fewer"):
        factorise(once, 0.7)
    with pytest.raises(NotApplicable, match="no layer would hold fewer"):
        factorise(once, 0.3)


def test_grids_stay_masks_go_and_calibrated_ranges_between_factors_too() -> None:
    quantized = WeightQuantization()(factorise(small(), 0.7), "quantize.bits", 4)
    twice = factorise(quantized, 0.3)
    for layer in (twice[3].first, twice[3].second):
        grid = read_weight(layer).grid
        assert grid is not None
        assert grid.bits == 4
    pruned = UnstructuredPruning()(factorise(small(), 0.7), "prune.sparsity", 0.5)
    with pytest.warns(match="the mask is gone"):
        twice = LowRank()(pruned, "lowrank.keep", 0.3)
    assert read_weight(twice[3].first).keep is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        static = StaticQuantization(data=DATA)(factorise(small(), 0.7), "static.bits", 8)
    assert static[3].second.input_quantizer is not None
    twice = factorise(static, 0.3)
    assert twice[3].first.input_quantizer is not None
    assert twice[3].second.input_quantizer is None
    assert torch.isfinite(twice(X)).all()


def test_it_ships(tmp_path: Path) -> None:
    base = small()
    twice = factorise(factorise(base, 0.7), 0.3)
    moves = (Move("lowrank.keep", 0.7), Move("lowrank.keep", 0.3))
    saved = kmr.save(tmp_path / "m", twice, base=base, builder=Builder("torch.nn.Sequential"), sequence=moves)
    assert torch.equal(kmr.load(saved, base=base)(X), twice(X))


def test_what_is_no_product_of_two_is_no_pair() -> None:
    def row(first: nn.Module, second: nn.Module) -> nn.Module:
        return nn.Sequential(OrderedDict(first=first, second=second))

    assert "" in find_pairs(row(nn.Linear(4, 2, bias=False), nn.Linear(2, 4)))
    assert not find_pairs(row(nn.Linear(4, 2), nn.Linear(2, 4)))
    assert not find_pairs(row(nn.Conv2d(4, 2, 3, bias=False), nn.Conv2d(2, 4, 3)))
    assert not find_pairs(row(nn.Conv2d(4, 2, 3, bias=False), nn.Conv2d(2, 4, 1, stride=2)))
    assert not find_pairs(row(nn.Linear(4, 4, bias=False), nn.ReLU()))
