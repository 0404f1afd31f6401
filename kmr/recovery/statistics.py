"""BatchNorm recalibration: running statistics re-estimated for the compressed model.

After a cut, the running means and variances describe activations that no longer exist. One pass over data, without
labels or gradients, re-estimates them (Nagel et al. 2019, §4; Li et al., EagleEye, 2020).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError, isolated_rng
from kmr.data import Inputs, Split, call


def normalisations(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm layers that have running statistics, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def recalibrate(model: nn.Module, batches: Iterable[Inputs]) -> nn.Module:
    """Set every BatchNorm's running statistics to those of the batches, in place; return the model.

    Each batch is normalised by its own statistics, as in training; the stored values are the mean and the unbiased
    variance over all batches together. Dropout stays off; modes and parameters do not change.

    Args:
        model: the model; without BatchNorm it is returned unchanged.
        batches: inputs as `kmr.data.forward` takes them, or a `kmr.data.Split`; larger batches come closer to
            evaluation mode.

    Raises:
        KMRError: there is no batch, or a batch has a single value for each channel.
    """
    layers = normalisations(model)
    if not layers:
        return model
    totals = {path: _Total() for path in layers}
    modes = [(module, module.training) for module in model.modules()]
    before = {path: (layer.running_mean, layer.running_var) for path, layer in layers.items()}
    try:
        with torch.no_grad(), isolated_rng(0), _watching(layers, totals):
            model.eval()
            for layer in layers.values():
                # Without running statistics, a layer in evaluation mode normalises by the batch's own.
                layer.running_mean = layer.running_var = None
            for inputs in inputs_of(batches):
                call(model, inputs)
    finally:
        for module, mode in modes:
            module.training = mode
        for path, layer in layers.items():
            layer.running_mean, layer.running_var = before[path]
    if not any(total.count for total in totals.values()):
        raise KMRError("no batch reached a BatchNorm layer: give recalibration at least one batch")
    for path, total in totals.items():
        if total.count:
            set_statistics(layers[path], total.mean, total.variance())
    return model


def set_statistics(layer: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Write running statistics in place."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)


def moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and unbiased variance of each channel (dimension 1), in double precision."""
    flat = inputs.detach().movedim(1, 0).flatten(1).double()
    if flat.shape[1] < 2:
        raise KMRError("a BatchNorm layer got one value for each channel: use a larger batch")
    return flat.mean(1), flat.var(1)


def inputs_of(batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """Yield the inputs of batches; from a split, drop the targets."""
    if isinstance(batches, Split):
        yield from (inputs for inputs, _ in batches.batches())
        return
    if isinstance(batches, Tensor):
        raise KMRError("batches is a single tensor, not an iterable of inputs: put it in a list")
    yield from batches


@dataclass
class _Total:
    """A running mean and sum of squared deviations, pooled over batches (Chan et al. 1983)."""

    count: int = 0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, inputs: Tensor) -> None:
        mean, variance = moments(inputs)
        added = inputs.numel() // inputs.shape[1]
        delta, whole = mean - self.mean, self.count + added
        self.mean = self.mean + delta * (added / whole)
        self.squares = self.squares + variance * (added - 1) + delta**2 * (self.count * added / whole)
        self.count = whole

    def variance(self) -> Tensor:
        pooled: Tensor = self.squares / (self.count - 1)
        return pooled


@contextmanager
def _watching(layers: dict[str, nn.modules.batchnorm._BatchNorm], totals: dict[str, _Total]) -> Iterator[None]:
    def hook(total: _Total) -> Any:
        return lambda module, args: total.add(args[0])

    with ExitStack() as stack:
        for path, layer in layers.items():
            handle = layer.register_forward_pre_hook(hook(totals[path]))
            stack.callback(handle.remove)
        yield
