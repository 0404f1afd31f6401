"""Layers under a decomposition: their ranks, the cost of these, and the chain of layers that computes them.

All but one form are plain convolutions and linear layers (`kmr.instantiations.tensor.trains` has the other).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from kmr.instantiations.factored import Factorable, chained, convolution_class, matrix_pair
from kmr.instantiations.lowrank import truncated_factors
from kmr.instantiations.tensor.decompositions import canonical, mode_spectrum, tensor_train, tucker, unfolded_spectra
from kmr.representation.weights import read_weight


@dataclass(frozen=True, eq=False)
class Form(ABC):
    """One layer under one decomposition.

    Args:
        layer: a convolution without groups, or a linear layer.
        iterations: of an iterative method.
        seed: of a method with random initial values.
    """

    layer: Factorable
    iterations: int = 0
    seed: int = 0

    @cached_property
    def weight(self) -> Tensor:
        """The effective weight of the layer."""
        return read_weight(self.layer).weight

    @property
    @abstractmethod
    def spectra(self) -> list[Tensor]:
        """The singular values of the matrix behind each rank."""

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The shape (short side, long side) of the matrix behind each rank."""
        return [(len(singular), self.weight.numel() // len(singular)) for singular in self.spectra]

    @abstractmethod
    def stages(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        """List the layers of the chain: the weights of each, and its runs for one output of the last."""

    @abstractmethod
    def build(self, ranks: Sequence[int]) -> nn.Module:
        """Return the chain of layers."""

    def parameters(self, ranks: Sequence[int]) -> int:
        """Count the weights of the chain."""
        return sum(weights for weights, _ in self.stages(ranks))

    def macs(self, ranks: Sequence[int]) -> int:
        """Count the multiply-accumulates for one output; the layer itself takes one for each of its weights."""
        return sum(weights * runs for weights, runs in self.stages(ranks))


@final
@dataclass(frozen=True, eq=False)
class MatrixForm(Form):
    """A truncated singular value decomposition, which Tucker, CP and tensor trains all are of a matrix."""

    @cached_property
    def spectra(self) -> list[Tensor]:
        return [torch.linalg.svdvals(self.weight.flatten(1).double())]

    def stages(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        rows, columns = self.weight.flatten(1).shape
        return [(ranks[0] * columns, 1), (ranks[0] * rows, 1)]

    def build(self, ranks: Sequence[int]) -> nn.Module:
        return matrix_pair(self.layer, *truncated_factors(self.weight.flatten(1), ranks[0]))


@dataclass(frozen=True, eq=False)
class ConvolutionForm(Form, ABC):
    """A convolution whose kernels are larger than a point."""

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[0])

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Of each spatial axis."""
        return tuple(int(step) for step in self.layer.stride)  # type: ignore[union-attr]

    @cached_property
    def axes(self) -> list[tuple[int, ...]]:
        """The spatial axes by the layer that convolves along them: each where the kernel has a length, the first layer
        those where it has none as well.
        """
        sizes = self.weight.shape[2:]
        long = [axis for axis, size in enumerate(sizes) if size > 1]
        point = [axis for axis, size in enumerate(sizes) if size == 1]
        return [(*point, long[0]), *((axis,) for axis in long[1:])]

    def runs_after(self, axes: Sequence[int]) -> int:
        """Return how often a layer runs for one output of the last, while these axes have their stride ahead."""
        return math.prod(self.strides[axis] for axis in axes)

    def convolution(self, inputs: int, outputs: int, axes: Sequence[int] = (), *, groups: int = 1) -> nn.Module:
        """Return a convolution along these axes as the layer has it, a point along all others."""
        layer: Any = self.layer
        sizes = self.weight.shape[2:]

        def along(values: Sequence[int], otherwise: int) -> tuple[int, ...]:
            return tuple(int(values[axis]) if axis in axes else otherwise for axis in range(len(sizes)))

        made: nn.Module = convolution_class(layer)(
            inputs, outputs, kernel_size=along(sizes, 1), stride=along(layer.stride, 1),
            padding=layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0),
            dilation=along(layer.dilation, 1), padding_mode=layer.padding_mode, groups=groups, bias=False,
        )  # fmt: skip
        return made


@final
@dataclass(frozen=True, eq=False)
class TuckerForm(ConvolutionForm):
    """Fewer channels in, the kernels, more channels out (Kim et al. 2016): Tucker along both modes of channels."""

    @cached_property
    def spectra(self) -> list[Tensor]:
        return [mode_spectrum(self.weight, 1), mode_spectrum(self.weight, 0)]

    def stages(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        before, after = ranks
        size = math.prod(self.weight.shape[2:])
        every = range(len(self.strides))
        return [(self.inputs * before, self.runs_after(every)), (before * after * size, 1), (after * self.outputs, 1)]

    def build(self, ranks: Sequence[int]) -> nn.Module:
        before, after = ranks
        core, (out, into) = tucker(self.weight, (after, before), (0, 1), self.iterations)
        parts = {
            "first": self.convolution(self.inputs, before),
            "core": self.convolution(before, after, range(len(self.strides))),
            "last": self.convolution(after, self.outputs),
        }
        return chained(self.layer, parts, (into.T, core, out))


@final
@dataclass(frozen=True, eq=False)
class CanonicalForm(ConvolutionForm):
    """Each of `rank` channels by itself along each axis, between two mixtures of channels (Lebedev et al. 2015)."""

    @property
    def spectra(self) -> list[Tensor]:
        # The energy of a rank is not known beforehand: every step up is worth the same.
        largest = self.weight.numel() // max(self.weight.shape)
        return [torch.ones(largest)]

    def stages(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        rank, left = ranks[0], [axis for axes in self.axes for axis in axes]
        stages = [(self.inputs * rank, self.runs_after(left))]
        for axes in self.axes:
            left = left[len(axes) :]
            stages.append((rank * int(self.weight.shape[2 + axes[-1]]), self.runs_after(left)))
        return [*stages, (rank * self.outputs, 1)]

    def build(self, ranks: Sequence[int]) -> nn.Module:
        rank = ranks[0]
        long = [axes[-1] for axes in self.axes]
        out, into, *along = canonical(
            self.weight.reshape(*self.weight.shape[:2], *(self.weight.shape[2 + axis] for axis in long)),
            rank, self.iterations, self.seed,
        )  # fmt: skip
        parts = {"first": self.convolution(self.inputs, rank)}
        for number, axes in enumerate(self.axes):
            parts[f"along{number}"] = self.convolution(rank, rank, axes, groups=rank)
        parts["last"] = self.convolution(rank, self.outputs)
        return chained(self.layer, parts, (into.T, *(factor.T for factor in along), out))


@final
@dataclass(frozen=True, eq=False)
class TrainForm(ConvolutionForm):
    """A tensor train over channels in, each axis, channels out: convolutions along one axis after the other."""

    @cached_property
    def tensor(self) -> Tensor:
        """The weight with its modes in the order of the train, and without axes that are points."""
        moved = self.weight.movedim(0, -1)
        return moved.reshape(self.inputs, *(moved.shape[1 + axes[-1]] for axes in self.axes), self.outputs)

    @cached_property
    def spectra(self) -> list[Tensor]:
        return unfolded_spectra(self.tensor)

    def stages(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        left = [axis for axes in self.axes for axis in axes]
        stages = [(self.inputs * ranks[0], self.runs_after(left))]
        for number, axes in enumerate(self.axes):
            left = left[len(axes) :]
            size = int(self.weight.shape[2 + axes[-1]])
            stages.append((ranks[number] * size * ranks[number + 1], self.runs_after(left)))
        return [*stages, (ranks[-1] * self.outputs, 1)]

    def build(self, ranks: Sequence[int]) -> nn.Module:
        first, *between, last = tensor_train(self.tensor, ranks)
        parts = {"first": self.convolution(self.inputs, first.shape[2])}
        for number, (axes, core) in enumerate(zip(self.axes, between, strict=True)):
            parts[f"along{number}"] = self.convolution(core.shape[0], core.shape[2], axes)
        parts["last"] = self.convolution(last.shape[0], self.outputs)
        # A core is (channels in, size, channels out); a kernel has channels out first and size last.
        kernels = (core.permute(2, 0, 1) for core in between)
        return chained(self.layer, parts, (first[0].T, *kernels, last[:, :, 0].T))
