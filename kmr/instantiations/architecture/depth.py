"""Depth (Algorithm 8): whole residual blocks and transformer layers go, the least important first."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from torch import nn

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs, Split
from kmr.instantiations.architecture.blocks import Block, change, drop, find_blocks, influence
from kmr.instantiations.layers import LayerRule

_IMPORTANCE = {"influence": influence, "change": change}


@final
@dataclass(frozen=True, kw_only=True)
class DropBlocks(LayerRule):
    """Keep a share of a model's blocks, the most important ones.

    A block is an entry of a `Sequential` or `ModuleList` that gives back the shape it takes, such as a residual block
    that does not widen or a transformer layer. The value is the share of them that stays; of blocks equally important
    the later goes first.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        importance: how much a block turns what goes through it (`influence`: 1 − cosine), or how far the model's output
            moves without it (`change`).
        data: the samples that importance is read on; the example where there is none.
        samples: how many of them.
    """

    name: str = "depth"
    example_inputs: Inputs = field(repr=False, compare=False)
    importance: Literal["influence", "change"] = "influence"
    data: Split | None = field(default=None, repr=False)
    samples: int = 128
    setting: ClassVar[str] = "keep"
    domain: ClassVar[Domain] = FloatRange(0.0, 1.0, neutral=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.importance not in _IMPORTANCE:
            raise KMRError(f"the importance of {self.name} must be influence or change, not {self.importance!r}")
        if self.samples < 1:
            raise KMRError(f"{self.name} needs at least 1 sample, not {self.samples}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        blocks = [block for block in find_blocks(model, self.example_inputs) if self.governs(knob, block.path)]
        if not blocks:
            raise NotApplicable(
                f"{knob.name}: no block to leave out: none in a Sequential or ModuleList gives back the shape it takes"
            )
        removed = len(blocks) - math.floor(float(value) * len(blocks) + 0.5)
        if not removed:
            raise NotApplicable(f"{knob.name}={value}: that share of {len(blocks)} blocks is all of them")
        batches = [self.example_inputs]
        if self.data is not None:
            batches = [inputs for inputs, _ in self.data.subset(self.samples).batches()]
        scores = _IMPORTANCE[self.importance](model, blocks, batches)
        order = sorted(range(len(blocks)), key=lambda place: (scores[place], -place))
        return self._without(model, [blocks[place] for place in order[:removed]], knob)

    def _without(self, model: nn.Module, blocks: list[Block], knob: Knob) -> nn.Module:
        from kmr.instantiations.pruning.proof import outputs_of

        before = [output.shape for output in outputs_of(model, self.example_inputs)]
        shorter = drop(model, blocks)
        try:
            after = [output.shape for output in outputs_of(shorter, self.example_inputs)]
        except Exception as error:  # a user's forward pass may count on its blocks
            raise NotApplicable(f"{knob.name}: without the blocks the model does not run: {error}") from error
        if before != after:
            raise NotApplicable(f"{knob.name}: without the blocks the output has another shape")
        return shorter
