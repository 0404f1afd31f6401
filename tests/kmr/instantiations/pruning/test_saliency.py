from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError, NotApplicable, RuleWarning
from kmr.data import Split
from kmr.instantiations.pruning import SNIP, Magnitude, RandomSaliency, TaylorSaliency, UnstructuredPruning, Wanda
from kmr.instantiations.pruning.saliency import saliency_of
from kmr.representation.weights import WeightState, read_weight, write_weight

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2
DATA = Split((X, Y), 12)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def gradient(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy by hand: (softmax − one-hot)ᵀ x / n."""
    return (torch.softmax(x @ weight.T + bias, 1) - F.one_hot(y, 2)).T @ x / len(x)


def scored(model: nn.Module, saliency: Any, data: Split | None = DATA, samples: int = 12) -> Tensor:
    return saliency_of(model, [""], saliency, data, samples, 0)[""]


def test_magnitude_needs_no_data_and_random_is_the_seeds() -> None:
    model = linear()
    torch.testing.assert_close(scored(model, Magnitude(), None), model.weight.detach().abs())
    torch.manual_seed(3)
    first = scored(model, RandomSaliency(), None)
    assert not torch.equal(first, scored(model, RandomSaliency(), None))
    rule = UnstructuredPruning(criterion=RandomSaliency(), seed=5)
    once, again = (read_weight(rule(nn.Linear(9, 9), "prune.sparsity", 0.5)).keep for _ in range(2))
    assert once is not None
    assert again is not None
    assert torch.equal(once, again)


def test_snip_is_the_mean_gradient_times_the_weight_as_a_share() -> None:
    model = linear()
    weight, bias = model.weight.detach(), model.bias.detach()
    expected = (gradient(weight, bias, X, Y) * weight).abs()
    torch.testing.assert_close(scored(model, SNIP()), expected / expected.sum())
    # The mean over equal batches is the gradient of all.
    torch.testing.assert_close(scored(model, SNIP(), Split((X, Y), 4)), expected / expected.sum())


def test_taylor_averages_the_size_of_each_batchs_change() -> None:
    model = linear()
    weight, bias = model.weight.detach(), model.bias.detach()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    batches = order.split(2)
    expected = sum((gradient(weight, bias, X[rows], Y[rows]) * weight).abs() for rows in batches) / 6
    torch.testing.assert_close(scored(model, TaylorSaliency(), Split((X, Y), 2)), expected)
    assert not torch.allclose(scored(model, TaylorSaliency(), DATA), expected)


def test_wanda_is_magnitude_times_the_norm_of_the_input() -> None:
    model = linear()
    expected = model.weight.detach().abs() * X.norm(dim=0)
    torch.testing.assert_close(scored(model, Wanda()), expected)
    torch.testing.assert_close(scored(model, Wanda(), Split((X, Y), 5)), expected)


def test_wanda_of_a_convolution_takes_the_norm_at_each_place_of_the_kernel() -> None:
    layer = nn.Conv1d(2, 3, 2, padding=1)
    x = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(1))
    padded = F.pad(x, (1, 1))
    norms = torch.stack([padded[:, :, :6].square().sum((0, 2)), padded[:, :, 1:].square().sum((0, 2))], 1).sqrt()
    found = scored(layer, Wanda(), Split((x, torch.zeros(4)), 4))
    torch.testing.assert_close(found, layer.weight.detach().abs() * norms)


def test_a_score_is_of_what_the_model_computes_with() -> None:
    model = linear()
    write_weight(model, WeightState(model.weight, None, torch.tensor([[True, False, True], [True, True, True]])))
    plain = linear()
    plain.weight.data[0, 1] = 0
    for saliency in (SNIP(), TaylorSaliency(), Wanda(), Magnitude()):
        found = scored(model, saliency)
        torch.testing.assert_close(found, scored(plain, saliency))
        assert found[0, 1] == 0
    assert scored(model, RandomSaliency())[0, 1] == 0
    assert model.parametrizations.weight.original.grad is None


def test_what_is_missing_or_diverged_is_named() -> None:
    with pytest.raises(KMRError, match="SNIP needs data to score weights"):
        scored(linear(), SNIP(), None)
    with pytest.raises(KMRError, match=r"shape \(12, 2\) do not fit targets of shape \(12, 5\)"):
        scored(linear(), TaylorSaliency(), Split((X, torch.randn(12, 5)), 12))
    model = linear()
    model.weight.data[0, 0] = torch.inf
    with pytest.raises(NotApplicable, match="not finite"):
        scored(model, Magnitude(), None)
    with pytest.raises(NotApplicable, match="can score none"):
        UnstructuredPruning(criterion=Wanda(), data=Split((torch.zeros(2).long(), Y[:2]), 2))(
            nn.Embedding(3, 2), "prune.sparsity", 0.5
        )


def test_layers_without_a_score_are_left_and_reported() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    rule = UnstructuredPruning(criterion=Wanda(), data=Split((torch.arange(5), torch.zeros(5)), 5))
    with pytest.warns(RuleWarning, match="prune: 0: left as they are: Wanda does not score them"):
        moved = rule(model, "prune.sparsity", 0.5)
    assert read_weight(moved[0]).keep is None
    assert int((read_weight(moved[1]).weight == 0).sum()) == 4


def test_bad_settings_are_named() -> None:
    with pytest.raises(KMRError, match="must be a kmr Saliency, not 'l1'"):
        UnstructuredPruning(criterion="l1")  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="samples of prune must be at least 1"):
        UnstructuredPruning(samples=0)
