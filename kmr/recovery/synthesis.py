"""Synthetic calibration inputs: noise optimised to reproduce a model's own BatchNorm statistics.

A trained network stores the mean and variance of every normalised activation. Inputs that reproduce them replace the
data (Cai et al., ZeroQ, 2020, §3.1; Yin et al., DeepInversion, 2020, without its image priors).
"""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError, NotApplicable, isolated_rng
from kmr.data import Inputs, call
from kmr.recovery.statistics import normalisations


def synthetic_inputs(
    model: nn.Module, example_inputs: Inputs, count: int = 256, *, steps: int = 60, rate: float = 0.1, seed: int = 0
) -> Tensor:
    """Make a batch whose activations have the means and variances stored in the model's BatchNorms.

    Args:
        model: a model with BatchNorm; it is not changed.
        example_inputs: one tensor of real numbers that gives the shape of a sample.
        count: samples to make, at least 2.
        steps: steps of Adam from unit Gaussian noise; 0 returns the noise.
        rate: the learning rate, above 0.
        seed: seeds the noise.

    Raises:
        KMRError: a number is out of range.
        NotApplicable: the model has no running statistics, or its inputs are not one tensor of real numbers.
    """
    if count < 2 or steps < 0 or rate <= 0:
        raise KMRError(f"synthetic inputs need count >= 2, steps >= 0, rate > 0, not {count}, {steps}, {rate}")
    if not isinstance(example_inputs, Tensor) or not example_inputs.is_floating_point():
        raise NotApplicable("cannot synthesise inputs: they must be one tensor of real numbers")
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = normalisations(model)
    if not layers:
        raise NotApplicable("cannot synthesise inputs: the model has no BatchNorm statistics")
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
            call(model, inputs)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(distances).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return inputs.detach()


def _distance(inputs: Tensor, layer: Any) -> Tensor:
    """Return the squared distance of a batch's statistics from a layer's, in units of its standard deviations."""
    flat = inputs.movedim(1, 0).flatten(1)
    deviation = (layer.running_var + layer.eps).sqrt()
    mean = (flat.mean(1) - layer.running_mean) / deviation
    spread = (flat.var(1) + layer.eps).sqrt() / deviation - 1
    distance: Tensor = (mean.square() + spread.square()).mean()
    return distance
