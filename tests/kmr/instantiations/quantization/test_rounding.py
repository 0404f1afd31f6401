import itertools

import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization, fit_grid
from kmr.instantiations.quantization.rounding import _gram, gptq_round
from kmr.representation.weights import read_weight


def error(weight: torch.Tensor, rounded: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((weight - rounded) @ inputs).square().sum())


def test_gptq_with_uncorrelated_inputs_is_rounding_to_nearest() -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(weight, 3, dim=0)
    assert torch.equal(gptq_round(weight, grid, torch.eye(6) * 5), grid(weight))


def test_gptq_beats_nearest_and_is_near_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(1)
    better = 0
    for _ in range(20):
        weight = torch.randn(1, 4, generator=generator)
        inputs = torch.randn(4, 4, generator=generator) @ torch.randn(4, 64, generator=generator)
        grid = fit_grid(weight, 2)
        rounded = gptq_round(weight, grid, inputs @ inputs.T, damping=1e-6)
        levels = [float(grid.values(torch.tensor(float(code)))) for code in range(4)]
        best = min(error(weight, torch.tensor([c]), inputs) for c in itertools.product(levels, repeat=4))
        nearest = error(weight, grid(weight), inputs)
        found = error(weight, rounded, inputs)
        better += best - 1e-6 <= found <= nearest
        assert set(rounded.flatten().tolist()) <= set(levels)
    assert better >= 17


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (5, 3, 6)),
        (nn.Conv1d(4, 6, 3, padding=1, stride=2, groups=2), (5, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, stride=2), (5, 4, 7, 7)),
        (nn.Conv2d(4, 8, (3, 2), dilation=2, groups=4), (5, 4, 7, 7)),
    ],
)
def test_the_gram_matrix_gives_the_error_of_the_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs, change = torch.randn(shape).double(), torch.randn(layer.weight.shape).double() * 0.1  # type: ignore[arg-type]
    layer = layer.double()
    with torch.no_grad():
        before = layer(inputs)
        layer.weight += change  # type: ignore[operator]
        expected = float((layer(inputs) - before).square().sum())
    grams = _gram(layer, inputs)  # type: ignore[arg-type]
    assert grams is not None
    rows = change.reshape(len(grams), -1, grams.shape[1])
    assert float((rows @ grams * rows).sum()) == pytest.approx(expected, rel=1e-4)


def small() -> tuple[nn.Module, Split]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()
    images = torch.randn(48, 2, 6, 6) + torch.linspace(-1, 1, 6)
    return model, Split((images, torch.zeros(48).long()), 16)


def test_a_model_rounded_layer_by_layer_is_nearer_to_itself_than_by_nearest() -> None:
    model, data = small()
    held = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(9)) + torch.linspace(-1, 1, 6)
    gaps = {}
    for rounding in ("nearest", "gptq"):
        rule = WeightQuantization(rounding=rounding, data=data, samples=48)  # type: ignore[arg-type]
        moved = rule(model, "quantize.bits", 3)
        with torch.no_grad():
            gaps[rounding] = float((moved(held) - model(held)).square().mean())
    assert gaps["gptq"] < 0.7 * gaps["nearest"]


def test_gptq_keeps_a_mask() -> None:
    model, data = small()
    pruned = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    moved = WeightQuantization(rounding="gptq", data=data)(pruned, "quantize.bits", 3)
    for layer, before in zip(moved, pruned, strict=True):  # type: ignore[arg-type, call-overload]
        if hasattr(layer, "weight"):
            keep = read_weight(before).keep
            assert bool((read_weight(layer).weight[~keep] == 0).all())


def test_bias_correction_gives_back_the_means_of_the_channels() -> None:
    model, data = small()
    for correct in (False, True):
        rule = WeightQuantization(bias_correction=correct, data=data, samples=48)
        moved = rule(model, "quantize.bits", 2)
        with torch.no_grad():
            gap = (moved(data.source[0]) - model(data.source[0])).mean(0).abs().max()
        assert (float(gap) < 1e-3) == correct


def test_bias_correction_by_hand() -> None:
    layer = nn.Linear(1, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[0.6]]), torch.tensor([0.0])
    data = Split((torch.tensor([[1.0], [3.0]]), torch.zeros(2).long()), 2)
    moved = WeightQuantization(bias_correction=True, scheme="symmetric", data=data, power_of_two=True)(
        layer, "quantize.bits", 2
    )
    # On the grid {−1, 0, 1} the weight is 1: the outputs' mean of 2·0.6 becomes 2 and is moved back by 0.8.
    assert moved.weight.item() == 1.0  # type: ignore[operator, union-attr]
    assert moved.bias.item() == pytest.approx(-0.8)  # type: ignore[operator, union-attr]
    assert moved(data.source[0]).mean().item() == pytest.approx(1.2)


def test_calibration_data_are_asked_for() -> None:
    with pytest.raises(KMRError, match="quantize needs calibration data"):
        WeightQuantization(rounding="gptq")
    with pytest.raises(KMRError, match="nearest or gptq"):
        WeightQuantization(rounding="adaround")  # type: ignore[arg-type]
