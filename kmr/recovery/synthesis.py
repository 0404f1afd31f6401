"""Calibration inputs without data: noise that is changed until a model's own BatchNorm statistics come out of it.

A trained network keeps the mean and variance of every normalised activation. Inputs that bring these about stand in for
the data (Cai et al., ZeroQ, 2020, §3.1; Yin et al., DeepInversion, 2020, without its image priors).
"""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError, NotApplicable, isolated_rng
from kmr.data import Inputs, forward
from kmr.recovery.statistics import normalisations


def synthetic_inputs(
    model: nn.Module, example_inputs: Inputs, count: int = 256, *, steps: int = 60, rate: float = 0.1, seed: int = 0
) -> Tensor:
    """Make a batch whose activations have the means and variances that the model's BatchNorms remember.

    Args:
        model: with BatchNorm; it is not changed.
        example_inputs: a batch of which only the shape of a sample counts; one tensor of real numbers.
        count: samples to make.
        steps: of Adam, from unit Gaussian noise; 0 leaves the noise.
        rate: its learning rate.
        seed: of the noise.

    Raises:
        NotApplicable: the model has no running statistics, or its inputs are not one tensor of real numbers.
    """
    if count < 2 or steps < 0 or rate <= 0:
        raise KMRError(f"synthetic inputs need count >= 2, steps >= 0, rate > 0, not {count}, {steps}, {rate}")
    if not isinstance(example_inputs, Tensor) or not example_inputs.is_floating_point():
        raise NotApplicable("inputs can be made without data only where they are one tensor of real numbers")
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = normalisations(model)
    if not layers:
        raise NotApplicable("inputs can be made without data only from BatchNorm statistics, and the model has none")
    distances: list[Tensor] = []

    def measure(layer: nn.Module, args: tuple[Any, ...]) -> None:
        distances.append(_distance(args[0], layer))

    with isolated_rng(seed), torch.enable_grad(), ExitStack() as stack:
        for layer in layers.values():
            stack.callback(layer.register_forward_pre_hook(measure).remove)
        inputs = torch.randn(count, *example_inputs.shape[1:], dtype=example_inputs.dtype).requires_grad_()
        optimizer = torch.optim.Adam([inputs], lr=rate)
        for _ in range(steps):
            distances.clear()
            forward(model, inputs)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(distances).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return inputs.detach()


def _distance(inputs: Tensor, layer: Any) -> Tensor:
    """Return how far a batch's statistics are from a layer's, in units of its standard deviations."""
    flat = inputs.movedim(1, 0).flatten(1)
    deviation = (layer.running_var + layer.eps).sqrt()
    mean = (flat.mean(1) - layer.running_mean) / deviation
    spread = (flat.var(1) + layer.eps).sqrt() / deviation - 1
    distance: Tensor = (mean.square() + spread.square()).mean()
    return distance
