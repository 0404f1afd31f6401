from functools import partial

import torch
from torch import nn

from kmr.meters import OptimizerBytes


def test_bytes_by_hand() -> None:
    model = nn.Linear(3, 2)  # 8 parameters in 2 tensors
    assert OptimizerBytes()(model).value == 4 * (8 + 2 * 8 + 2), "gradients, two moments, a count for each tensor"
    assert OptimizerBytes(gradients=False)(model).value == 4 * (2 * 8 + 2)
    assert OptimizerBytes(optimizer=partial(torch.optim.SGD, lr=0.1))(model).value == 4 * 8
    momentum = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    assert OptimizerBytes(optimizer=momentum)(model).value == 4 * 2 * 8
    model.weight.requires_grad_(False)
    assert OptimizerBytes(optimizer=momentum)(model).value == 4 * 2 * 2
    model.bias.requires_grad_(False)
    assert OptimizerBytes()(model).value == 0
