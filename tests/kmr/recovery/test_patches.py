from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmr.recovery.patches import as_matrix, count_places, inputs_at, is_product, outputs_at

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(5, 7, bias=False), (4, 5)),
    "linear_tokens": (nn.Linear(5, 7, bias=False), (2, 3, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), padding=(1, 0), dilation=(2, 1), bias=False), (2, 4, 8, 7)),
    "same": (nn.Conv2d(3, 4, 3, padding="same", dilation=2, bias=False), (2, 3, 6, 6)),
    "reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", bias=False), (2, 3, 6, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 6, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, stride=2, bias=False), (2, 2, 4, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_product_of_what_it_meets_and_its_weight(name: str) -> None:
    layer: Any
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    inputs = torch.randn(shape)
    with torch.no_grad():
        outputs: Tensor = layer(inputs)
        places = torch.randperm(count_places(layer, outputs))[:20]
        rows = inputs_at(layer, inputs, places) @ as_matrix(layer, layer.weight).mT
        expected = outputs_at(layer, outputs, places)
    torch.testing.assert_close(rows.movedim(0, 1).flatten(1), expected)


def test_places_are_samples_and_positions_in_the_order_of_memory() -> None:
    outputs = torch.arange(24.0).reshape(2, 3, 4)
    assert outputs_at(nn.Conv1d(1, 3, 1), outputs, torch.tensor([0, 5])).tolist() == [[0, 4, 8], [13, 17, 21]]


def test_a_subclass_that_computes_otherwise_is_no_product() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert is_product(nn.Linear(2, 2))
    assert not is_product(Doubled(2, 2))
    assert not is_product(nn.ConvTranspose2d(2, 2, 2))
