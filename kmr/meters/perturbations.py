"""Perturbations of inputs: noise, blur and loss of contrast, and the attacks FGSM and PGD.

Sizes are fractions of the range of the data, for each channel of images (n, channels, …) or each feature of vectors
(n, features), so that they mean the same for normalized inputs: 8/255 of the range is 8 levels of an 8-bit image.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError, Task
from kmr.data.structures import map_tensors


@dataclass(frozen=True)
class Ranges:
    """The lowest and the highest values of each floating-point tensor of a batch, in the order of the tensors."""

    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Perturbation(ABC):
    """A change of the inputs of a batch.

    Args:
        bounds: the lowest and the highest value of inputs; None takes those of the split's first batch, for each
            channel or feature. Perturbed inputs stay within.
    """

    bounds: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.bounds is None:
            return
        if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
            raise KMRError(f"bounds must be two numbers, the lower first, not {list(self.bounds)}")
        object.__setattr__(self, "bounds", tuple(self.bounds))

    @abstractmethod
    def __call__(self, model: nn.Module, task: Task, inputs: Any, targets: Any, ranges: Ranges) -> Any:
        """Return perturbed inputs of a batch; random numbers come from torch's generator, which is seeded."""


@dataclass(frozen=True, kw_only=True)
class _Corruption(Perturbation):
    """A corruption that does not look at the model."""

    def __call__(self, model: nn.Module, task: Task, inputs: Any, targets: Any, ranges: Ranges) -> Any:
        parts = zip(_floating(inputs), ranges.low, ranges.high, strict=True)
        return _with(inputs, [_within(self.corrupt(part, high - low), low, high) for part, low, high in parts])

    @abstractmethod
    def corrupt(self, part: Tensor, size: Tensor) -> Tensor:
        """Return a corrupted tensor of inputs; `size` is the range of its values."""


@final
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(_Corruption):
    """Normal noise (Hendrycks & Dietterich 2019, ImageNet-C: 0.08, 0.12, 0.18, 0.26, 0.38 for severities 1 to 5).

    Args:
        sd: the standard deviation as a fraction of the data's range, at least 0.
        bounds: the lowest and the highest value of inputs; None takes those of the split's first batch.
    """

    sd: float = 0.08

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("sd", self.sd, self.sd >= 0, "at least 0")

    def corrupt(self, part: Tensor, size: Tensor) -> Tensor:
        return part + self.sd * size * torch.randn(part.shape).to(part)


@final
@dataclass(frozen=True, kw_only=True)
class Contrast(_Corruption):
    """Loss of contrast: values move towards the mean of their sample and channel (Hendrycks & Dietterich 2019).

    Args:
        kept: the share of the contrast that is kept, in [0, 1].
        bounds: the lowest and the highest value of inputs; None takes those of the split's first batch.
    """

    kept: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("kept", self.kept, 0 <= self.kept <= 1, "between 0 and 1")

    def corrupt(self, part: Tensor, size: Tensor) -> Tensor:
        axes = tuple(range(2, part.dim())) or (1,)
        mean = part.mean(axes, keepdim=True)
        return mean + self.kept * (part - mean)


@final
@dataclass(frozen=True, kw_only=True)
class Blur(_Corruption):
    """Gaussian blur of images (n, channels, height, width) (Hendrycks & Dietterich 2019).

    Args:
        sigma: the standard deviation in pixels, above 0.
        bounds: the lowest and the highest value of inputs; None takes those of the split's first batch.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("sigma", self.sigma, self.sigma > 0, "above 0")

    def corrupt(self, part: Tensor, size: Tensor) -> Tensor:
        if part.dim() != 4:
            raise KMRError(
                f"Blur takes images (n, channels, height, width), not inputs of shape {tuple(part.shape)}: use "
                "kmr.meters.perturbations.GaussianNoise"
            )
        reach = min(round(3 * self.sigma) or 1, min(part.shape[2:]) - 1)
        places = torch.arange(-reach, reach + 1)
        line = torch.exp(-places.double().square() / (2 * self.sigma**2)).to(part)
        line = (line / line.sum()).expand(part.shape[1], 1, 1, -1)
        wide = F.pad(part, [reach] * 4, mode="reflect") if reach else part
        across = F.conv2d(wide, line, groups=part.shape[1])
        return F.conv2d(across, line.transpose(2, 3), groups=part.shape[1])


@final
@dataclass(frozen=True, kw_only=True)
class FGSM(Perturbation):
    """The fast gradient sign method: one step that raises the task's loss (Goodfellow et al. 2015).

    Args:
        epsilon: the largest change as a fraction of the data's range, at least 0.
        bounds: the lowest and the highest value of inputs; None takes those of the split's first batch.
    """

    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("epsilon", self.epsilon, self.epsilon >= 0, "at least 0")

    def __call__(self, model: nn.Module, task: Task, inputs: Any, targets: Any, ranges: Ranges) -> Any:
        parts = _floating(inputs)
        slopes = _gradients(model, task, inputs, targets, parts)
        steps = zip(parts, slopes, ranges.low, ranges.high, strict=True)
        return _with(
            inputs,
            [_within(part + self.epsilon * (high - low) * g.sign(), low, high) for part, g, low, high in steps],
        )


@final
@dataclass(frozen=True, kw_only=True)
class PGD(Perturbation):
    """Projected gradient descent: steps of the gradient's sign from a random start (Madry et al. 2018, §2.1).

    Args:
        epsilon: the largest change as a fraction of the data's range, at least 0.
        steps: gradient steps, at least 1.
        step: the size of a step as a fraction of `epsilon`, above 0.
        bounds: the lowest and the highest value of inputs; None takes those of the split's first batch.
    """

    epsilon: float = 8 / 255
    steps: int = 10
    step: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("epsilon", self.epsilon, self.epsilon >= 0, "at least 0")
        _check("steps", self.steps, self.steps >= 1, "at least 1")
        _check("step", self.step, self.step > 0, "above 0")

    def __call__(self, model: nn.Module, task: Task, inputs: Any, targets: Any, ranges: Ranges) -> Any:
        clean = _floating(inputs)
        most = [self.epsilon * (high - low) for low, high in zip(ranges.low, ranges.high, strict=True)]
        now = [
            _within(part + (2 * torch.rand(part.shape).to(part) - 1) * size, low, high)
            for part, size, low, high in zip(clean, most, ranges.low, ranges.high, strict=True)
        ]
        for _ in range(self.steps):
            slopes = _gradients(model, task, _with(inputs, now), targets, now)
            now = [
                _within(start + (part + self.step * size * g.sign() - start).clamp(-size, size), low, high)
                for part, g, start, size, low, high in zip(
                    now, slopes, clean, most, ranges.low, ranges.high, strict=True
                )
            ]
        return _with(inputs, now)


def ranges_of(inputs: Any, bounds: Sequence[float] | None) -> Ranges:
    """Return the ranges of values of a batch, for each channel or feature, or the given bounds.

    Raises:
        KMRError: no input is a floating-point tensor, or a batch is a list, of images of different sizes.
    """
    parts = _floating(inputs)
    if isinstance(inputs, list) or (isinstance(inputs, tuple) and any(isinstance(part, list) for part in inputs)):
        raise KMRError("inputs are a list, and only tensors of whole batches can be perturbed: choose another meter")
    if not parts:
        raise KMRError("no input is a floating-point tensor, so that none can be perturbed: choose another meter")
    if bounds is not None:
        return Ranges(*(tuple(part.new_tensor(bound) for part in parts) for bound in bounds))
    axes = [tuple(axis for axis in range(part.dim()) if axis != 1) for part in parts]
    return Ranges(
        tuple(part.amin(axis, keepdim=True) for part, axis in zip(parts, axes, strict=True)),
        tuple(part.amax(axis, keepdim=True) for part, axis in zip(parts, axes, strict=True)),
    )


def _gradients(model: nn.Module, task: Task, inputs: Any, targets: Any, parts: list[Tensor]) -> list[Tensor]:
    """Return the gradients of the loss at some floating-point inputs.

    Raises:
        KMRError: the loss has none, so that an attack would change nothing.
    """
    with torch.enable_grad():
        leaves = [part.detach().requires_grad_(True) for part in parts]
        loss = task.loss(task.outputs(task.call(model, _with(inputs, leaves))), targets)
        found = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else [None] * len(leaves)
    if all(slope is None for slope in found):
        raise KMRError(
            "the loss has no gradient at the inputs, so that an attack changes nothing: choose "
            "kmr.meters.perturbations.GaussianNoise"
        )
    return [torch.zeros_like(part) if slope is None else slope for part, slope in zip(parts, found, strict=True)]


def _within(part: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(part, low), high)


def _floating(inputs: Any) -> list[Tensor]:
    """Return the floating-point tensors of a batch's inputs, in a fixed order."""
    found: list[Tensor] = []

    def add(part: Tensor) -> Tensor:
        if part.is_floating_point():
            found.append(part)
        return part

    map_tensors(add, inputs)
    return found


def _with(inputs: Any, parts: list[Tensor]) -> Any:
    """Return inputs with other floating-point tensors, in the same order."""
    rest = iter(parts)
    return map_tensors(lambda part: next(rest) if part.is_floating_point() else part, inputs)


def _check(name: str, value: float, is_right: bool, allowed: str) -> None:
    if not is_right:
        raise KMRError(f"{name} must be {allowed}, not {value}")
