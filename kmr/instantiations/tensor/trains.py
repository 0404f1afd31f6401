"""Linear layers as tensor trains (Novikov et al. 2015): a matrix over pairs of small modes, one core for each pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast, final

from torch import Tensor, nn

from kmr.instantiations.factored import chained
from kmr.instantiations.tensor.decompositions import tensor_train, unfolded_spectra
from kmr.instantiations.tensor.forms import Form


class TensorTrainLinear(nn.Module):
    """A product with W[(o₁…o_d), (i₁…i_d)] = G₁[o₁, i₁] · … · G_d[o_d, i_d], matrices of shape (rₖ₋₁, rₖ).

    A core is the linear layer that takes (iₖ, rₖ) to (rₖ₋₁, oₖ), so that rules over layers reach it.

    Args:
        outputs: sizes o₁, …, o_d.
        inputs: sizes i₁, …, i_d.
        ranks: r₀ = 1, …, r_d = 1.
        bias: a parameter of shape (o₁ · … · o_d), or None.
    """

    bias: Tensor | None

    def __init__(
        self, outputs: Sequence[int], inputs: Sequence[int], ranks: Sequence[int], bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.outputs, self.inputs, self.ranks = tuple(outputs), tuple(inputs), tuple(ranks)
        self.cores = nn.Sequential(
            *(
                nn.Linear(size * after, before * out, bias=False)
                for out, size, before, after in zip(outputs, inputs, ranks[:-1], ranks[1:], strict=True)
            )
        )
        self.register_parameter("bias", None if bias is None else cast(nn.Parameter, bias))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension of x, core after core from the last."""
        shape = x.shape[:-1]
        # (batch, modes in, what has come out so far · rank), of which each core takes a mode in and gives one out.
        z, done = x.reshape(-1, math.prod(self.inputs), 1), 1
        for k in reversed(range(len(self.inputs))):
            left, size, rank = math.prod(self.inputs[:k]), self.inputs[k], self.ranks[k + 1]
            z = z.reshape(-1, left, size, rank, done).permute(0, 1, 4, 2, 3)
            z = self.cores[k](z.reshape(-1, left, done, size * rank))
            z = z.reshape(-1, left, done, self.ranks[k], self.outputs[k]).permute(0, 1, 3, 4, 2)
            done *= self.outputs[k]
        y = z.reshape(*shape, done)
        return y if self.bias is None else y + self.bias


@final
@dataclass(frozen=True, eq=False)
class TrainMatrixForm(Form):
    """A linear layer as a tensor train, both sizes split into factors.

    Args:
        modes: number of factors of each size.
    """

    modes: int = 2

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """Sizes out, o₁, …."""
        return balanced(int(self.weight.shape[0]), self.modes)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Sizes in, i₁, …."""
        return balanced(int(self.weight.shape[1]), self.modes)

    @cached_property
    def tensor(self) -> Tensor:
        """The weight with modes (o₁ i₁), …, (o_d i_d)."""
        split = self.weight.reshape(*self.outputs, *self.inputs)
        paired = split.permute(*(place for k in range(self.modes) for place in (k, self.modes + k)))
        return paired.reshape(*(o * i for o, i in zip(self.outputs, self.inputs, strict=True)))

    @cached_property
    def spectra(self) -> list[Tensor]:
        return unfolded_spectra(self.tensor)

    def stages(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        full = (1, *ranks, 1)
        return [
            (
                full[k] * self.outputs[k] * self.inputs[k] * full[k + 1],
                math.prod(self.inputs[:k]) * math.prod(self.outputs[k + 1 :]),
            )
            for k in range(self.modes)
        ]

    def build(self, ranks: Sequence[int]) -> nn.Module:
        cores = tensor_train(self.tensor, ranks)
        sizes = [1, *(core.shape[2] for core in cores)]
        made = TensorTrainLinear(self.outputs, self.inputs, sizes, self.layer.bias)
        weights = [
            # (before, out · in, after) as a matrix of (before, out) by (in, after)
            core.reshape(core.shape[0], o, i, core.shape[2]).flatten(2).flatten(0, 1)
            for core, o, i in zip(cores, self.outputs, self.inputs, strict=True)
        ]
        made.cores = chained(self.layer, dict(made.cores.named_children()), weights, ends=False)
        return made.train(self.layer.training)


def balanced(size: int, modes: int) -> tuple[int, ...]:
    """Split a size into this many divisors, descending, each as near to an even share as possible from below."""
    parts: list[int] = []
    for left in range(modes, 1, -1):
        even = round(size ** (1 / left), 9)
        parts.append(max(divisor for divisor in range(1, math.floor(even) + 1) if size % divisor == 0))
        size //= parts[-1]
    return tuple(sorted([*parts, size], reverse=True))
