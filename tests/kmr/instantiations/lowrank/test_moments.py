from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmr.data import Split
from kmr.instantiations.lowrank import input_moments


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(6, 4), torch.randn(5, 3, 6)),
        (nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2), torch.randn(20, 3, 9)),
        (nn.Conv2d(3, 4, (3, 1), padding="same"), torch.randn(5, 3, 6, 6)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), torch.randn(5, 3, 6, 6)),
        (nn.Conv3d(2, 4, 3, padding=1, bias=False), torch.randn(2, 2, 4, 4, 4)),
    ],
)
def test_they_give_the_mean_square_of_the_output(layer: Any, x: Tensor) -> None:
    moment = input_moments(layer, {"": layer}, Split((x, torch.zeros(len(x))), 3), len(x))[""]
    layer.bias = None
    matrix = layer.weight.detach().flatten(1).double()
    output = layer(x) if isinstance(layer, nn.Linear) else layer(x).movedim(1, -1)
    expected = output.detach().double().reshape(-1, len(matrix)).square().mean(0)
    torch.testing.assert_close((matrix @ moment @ matrix.T).diagonal(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moment, moment.T)


def test_only_the_first_samples_count_and_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3), nn.Linear(9, 9)).train()
    model[0].eval()
    unused = model[2]
    model = nn.Sequential(model[0], model[1])
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    data = Split((x, torch.zeros(3)), 2)
    moments = input_moments(model, {"1": model[1], "unused": unused}, data, 2)
    torch.testing.assert_close(moments["1"], torch.eye(2, dtype=torch.float64) / 2, rtol=1e-4, atol=1e-4)
    assert moments.keys() == {"1"}
    assert (model.training, model[0].training, model[0].num_batches_tracked.item()) == (True, False, 0)
    assert not model[1]._forward_hooks
