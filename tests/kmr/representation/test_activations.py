import copy
from typing import Any

import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.instantiations.quantization import fit_grid
from kmr.representation.activations import (
    ActivationQuantizer,
    DynamicQuantizer,
    can_quantize,
    quantize_activations,
    quantized_layers,
    without_quantizers,
)
from kmr.representation.weights import WeightState, read_weight, write_weight


def test_a_quantizer_rounds_to_unsigned_codes_as_onnx_does() -> None:
    quantizer = ActivationQuantizer(0.5, 3, 3)
    x = torch.tensor([-9.0, -0.25, 0.25, 0.75, 9.0])
    # saturate(round_half_even(x / s) + z), then (q − z) · s
    assert quantizer(x).tolist() == [-1.5, 0.0, 0.0, 1.0, 2.0]
    assert (float(quantizer.scale), int(quantizer.zero_point), quantizer.bits) == (0.5, 3, 3)
    with pytest.raises(KMRError, match="zero point 8"):
        ActivationQuantizer(0.5, 8, 3)


def test_a_dynamic_quantizer_is_onnx_dynamic_quantize_linear() -> None:
    x = torch.tensor([[0.0, 2.0, -3.0], [-2.5, 1.34, 0.5]])
    # The example of the operator's documentation: scale 5/255 and zero point 153.
    quantized = DynamicQuantizer(8)(x)
    scale = torch.tensor(5.0) / 255
    assert torch.equal(quantized, scale * (torch.tensor([[153, 255, 0], [26, 221, 179]]) - 153))
    rows = DynamicQuantizer(8, rows=True)(x)
    assert torch.equal(rows[1], DynamicQuantizer(8)(x[1]))
    assert torch.equal(DynamicQuantizer(4)(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(4, 3), nn.Conv1d(4, 3, 2), nn.Conv2d(4, 3, 2), nn.Conv3d(4, 3, 2), nn.ConvTranspose1d(4, 3, 2),
     nn.ConvTranspose2d(4, 3, 2), nn.ConvTranspose3d(4, 3, 2)],
)  # fmt: skip
def test_a_layer_rounds_before_and_after_and_can_be_made_plain_again(layer: Any) -> None:
    x = torch.randn(2, 4, *[5] * max(0, layer.weight.dim() - 2))
    plain = copy.deepcopy(layer)
    before, after = ActivationQuantizer(0.1, 8, 4), ActivationQuantizer(0.2, 7, 4)
    quantize_activations(layer, inputs=before, outputs=after)
    assert torch.equal(layer(x), after(plain(before(x))))
    assert isinstance(layer, type(plain))
    assert [path for path, _ in quantized_layers(layer)] == [""]
    twin = copy.deepcopy(layer)
    without_quantizers(layer)
    assert type(layer) is type(plain)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(twin(x), after(plain(before(x))))


def test_a_grid_and_its_latent_values_stay() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    write_weight(layer, WeightState(layer.weight.detach(), fit_grid(layer.weight, 3, dim=0), torch.rand(6, 6) < 0.7))
    layer.parametrizations.weight.original.data += 0.01
    before, latent = layer.weight.detach().clone(), layer.parametrizations.weight.original.detach().clone()
    untouched = copy.deepcopy(layer)
    quantize_activations(layer, inputs=DynamicQuantizer(8))
    for _ in range(2):
        assert torch.equal(layer.weight, before)
        assert torch.equal(layer.parametrizations.weight.original, latent)
        assert read_weight(layer).grid is not None
        without_quantizers(layer)
    assert torch.equal(untouched.weight, before)


def test_learned_activations_train_and_their_zero_point_stays_whole() -> None:
    layer = nn.Linear(4, 4)
    quantizer = ActivationQuantizer(0.05, 7.0, 4, learned=True)
    quantize_activations(layer, inputs=quantizer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 3).square().sum().backward()
    optimizer.step()
    assert quantizer.scale.item() != pytest.approx(0.05, rel=1e-3)
    assert quantizer.zero_point.item().is_integer()
    assert len(quantizer(torch.linspace(-50, 50, 1000)).unique()) <= 16


def test_other_classes_are_refused() -> None:
    class Own(nn.Linear):
        pass

    assert not can_quantize(Own(2, 2))
    assert not can_quantize(nn.Embedding(2, 2))
    with pytest.raises(KMRError, match="activations of a Own"):
        quantize_activations(Own(2, 2), inputs=None)
