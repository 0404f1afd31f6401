import pytest
import torch
from torch import Tensor

from kmr.instantiations.sharing import merges, shared_weight


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def error(weights: list[Tensor], approximations: list[Tensor]) -> float:
    """The squared error relative to each weight's squared norm."""
    return float(sum((w - a).square().sum() / w.square().sum() for w, a in zip(weights, approximations, strict=True)))


def scaled(weight: Tensor, scales: Tensor) -> list[Tensor]:
    return [weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)) for scale in scales]


@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_multiples_of_one_weight_are_found_again(scale: str) -> None:
    weight = random(4, 3, 2)
    factors = torch.tensor([[2.0], [-1.0], [0.5]]).double().expand(3, 4)
    if scale == "channel":
        factors = factors * torch.tensor([1.0, -2.0, 3.0, 0.0]).double()
    weights = scaled(weight, factors)
    shared, scales = shared_weight(weights, scale)  # type: ignore[arg-type]
    assert scales is not None
    for found, expected in zip(scaled(shared, scales), weights, strict=True):
        torch.testing.assert_close(found, expected)
    assert bool((scales[0] >= 0).all())
    rows = scales.square().mean(0)[:3]
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_without_scales_the_shared_weight_is_the_mean() -> None:
    weights = [random(3, 2), 2 * random(3, 2) + 1]
    shared, scales = shared_weight(weights, "none")
    assert scales is None
    torch.testing.assert_close(shared, (weights[0] + weights[1]) / 2)


@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_the_error_is_that_of_the_dropped_singular_values(scale: str) -> None:
    weights = list(random(3, 4, 6))
    shared, scales = shared_weight(weights, scale)  # type: ignore[arg-type]
    assert scales is not None
    normed = torch.stack([weight / weight.norm() for weight in weights])
    groups = normed.flatten(1)[None] if scale == "layer" else normed.transpose(0, 1)
    dropped = float(torch.linalg.svdvals(groups)[:, 1:].square().sum())
    assert error(weights, scaled(shared, scales)) == pytest.approx(dropped)
    total = sum(merge.loss for merge in merges(weights, scale))  # type: ignore[arg-type]
    assert total == pytest.approx(dropped)


def test_the_layers_that_are_most_alike_merge_first() -> None:
    one, other = random(4, 5), random(5, 4).T
    found = merges([one, other, 3 * one, -other + 0.01], "layer")
    assert [{frozenset(merge.one), frozenset(merge.other)} for merge in found] == [
        {frozenset({0}), frozenset({2})},
        {frozenset({1}), frozenset({3})},
        {frozenset({0, 2}), frozenset({1, 3})},
    ]
    assert found[0].loss < 1e-9 < found[1].loss < 0.01 < found[2].loss
