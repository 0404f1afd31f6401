import torch
from torch import nn

from kmr.meters import PeakMemory


def test_the_peak_is_the_most_that_lives_at_once():
    # float32 in 1 sample: input 4, then 4 + 16 values live, then 16 + 2; the input is held by the caller all along.
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
    assert PeakMemory(example_inputs=torch.zeros(1, 4))(model).value == 4 * (4 + 16 + 2)
    assert PeakMemory(example_inputs=torch.zeros(1, 4), batch=3)(model).value == 3 * 4 * (4 + 16 + 2)


def test_what_is_freed_before_the_peak_does_not_count():
    class Net(nn.Module):
        def forward(self, x):
            wide = x.repeat(1, 100)
            x = wide[:, :4].clone()
            del wide
            for _ in range(5):
                x = x + 1
            return x

    # Input 4, the wide one 400, and its clone 4.
    assert PeakMemory(example_inputs=torch.zeros(1, 4))(Net()).value == 4 * (4 + 400 + 4)


def test_in_place_and_views_take_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Unflatten(1, (2, 2)))
    assert PeakMemory(example_inputs=torch.zeros(1, 4))(model).value == 4 * (4 + 4)
