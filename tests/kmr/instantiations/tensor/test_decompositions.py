import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from kmr.core import NotHere
from kmr.instantiations.tensor import TensorDecomposition, canonical, tensor_train, tucker
from kmr.instantiations.tensor.decompositions import mode_spectrum, unfolded_spectra


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tails(spectra: list[Tensor], ranks: tuple[int, ...]) -> float:
    return float(sum(singular[rank:].square().sum() for singular, rank in zip(spectra, ranks, strict=True)))


def rebuilt(core: Tensor, factors: list[Tensor]) -> Tensor:
    return torch.einsum("abkl,oa,ib->oikl", core, *factors)


def test_the_higher_order_singular_value_decomposition_projects_on_singular_vectors() -> None:
    weight = random(6, 5, 3, 2)
    core, factors = tucker(weight, (4, 3), (0, 1), iterations=0)
    projected = weight
    for mode, (factor, rank) in enumerate(zip(factors, (4, 3), strict=True)):
        assert factor.shape == (weight.shape[mode], rank)
        left = torch.linalg.svd(weight.movedim(mode, 0).flatten(1)).U[:, :rank]
        torch.testing.assert_close(factor @ factor.T, left @ left.T)
        projected = torch.tensordot(left @ left.T, projected.movedim(mode, 0), 1).movedim(0, mode)
    torch.testing.assert_close(rebuilt(core, factors), projected)
    error = float((rebuilt(core, factors) - weight).square().sum())
    assert error <= tails([mode_spectrum(weight, 0), mode_spectrum(weight, 1)], (4, 3))


def test_orthogonal_iteration_lowers_the_error() -> None:
    weight = random(8, 8, 3, 3)
    errors = [float((rebuilt(*tucker(weight, (3, 3), (0, 1), n)) - weight).norm()) for n in (0, 1, 20)]
    assert errors[0] > errors[1] >= errors[2]


def test_a_sum_of_outer_products_is_found_again() -> None:
    parts = [random(n, 2) for n in (5, 4, 3)]
    weight = torch.einsum("ar,br,cr->abc", *parts)
    found = canonical(weight, 2, 200, seed=0)
    torch.testing.assert_close(torch.einsum("ar,br,cr->abc", *found), weight, atol=1e-3, rtol=1e-3)
    norms = torch.stack([factor.norm(dim=0) for factor in found])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))
    again = canonical(weight, 6, 20, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(again, canonical(weight, 6, 20, seed=0), strict=True))


def test_the_error_of_a_train_is_at_most_what_each_rank_leaves_out() -> None:
    tensor = random(4, 3, 5, 6)
    cores = tensor_train(tensor, (3, 5, 4))
    assert [tuple(core.shape) for core in cores] == [(1, 4, 3), (3, 3, 5), (5, 5, 4), (4, 6, 1)]
    found = torch.einsum("xai,ibj,jck,kdy->abcd", *cores)
    assert float((found - tensor).square().sum()) <= tails(unfolded_spectra(tensor), (3, 5, 4))
    torch.testing.assert_close(torch.einsum("xai,ibj,jck,kdy->abcd", *tensor_train(tensor, (9, 99, 9))), tensor)


def test_without_tensorly_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "tensorly", absent)
    with pytest.raises(NotHere, match=r"pip install 'kmr-sweeps\[tensor\]'"):
        TensorDecomposition()


def test_the_backend_of_tensorly_is_left_as_it_was() -> None:
    import tensorly

    with tensorly.backend_context("pytorch"):
        tensor_train(random(3, 4), (2,))
        assert tensorly.get_backend() == "pytorch"
