"""Depth (Algorithm 8): removal of residual blocks and transformer layers, the least important first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from torch import nn

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs, Split
from kmr.instantiations.architecture.blocks import WAYS, Block, change, find_blocks, influence
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.pruning.proof import brief, outputs_of

_IMPORTANCE = {"influence": influence, "change": change}


@final
@dataclass(frozen=True, kw_only=True)
class DropBlocks(LayerRule):
    """Removal of the least important residual blocks, whose input takes the place of their output.

    The value is the share of blocks to remove (Veit et al. 2016; Men et al. 2024). `find_blocks` defines a block; of
    equally important blocks the later is removed first. A block stays if the model without it does not run, changes its
    output's shape or returns a number that is not finite. The other blocks keep their paths, except in a `ModuleList`
    whose entries' attributes the code reads: that list gets shorter.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        importance: the change of the features in a block (`influence`: 1 − cosine), or the change of the model's output
            without it (`change`: a forward pass for each block).
        data: the samples for importance; `example_inputs` when None.
        samples: number of samples to use, at least 1.
    """

    name: str = "depth"
    example_inputs: Inputs = field(repr=False, compare=False)
    importance: Literal["influence", "change"] = "influence"
    data: Split | None = field(default=None, repr=False, compare=False)
    samples: int = 128
    setting: ClassVar[str] = "ratio"
    domain: ClassVar[Domain] = FloatRange(0.0, 1.0, neutral=0.0)

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
        modes = [(module, module.training) for module in model.modules()]
        try:
            with torch.no_grad():
                return self._without(model.eval(), knob, float(value))
        finally:
            for module, training in modes:
                module.training = training

    def _without(self, model: nn.Module, knob: Knob, ratio: float) -> nn.Module:
        try:
            shapes = [output.shape for output in outputs_of(model, self.example_inputs)]
            blocks = [block for block in find_blocks(model, self.example_inputs) if self.governs(knob, block.path)]
        except Exception as error:  # a user's forward pass may raise anything
            raise NotApplicable(f"{knob.name}: the model does not run: {brief(error)}") from error
        if not blocks:
            raise NotApplicable(f"{knob.name}: the model has no residual block whose input can replace its output")
        wanted = math.floor(ratio * len(blocks) + 0.5)
        if not wanted:
            self.report([block.path for block in blocks], f"left: {ratio:g} of the blocks is less than one")
            return model
        batches = [self.example_inputs]
        if self.data is not None:
            batches = [inputs for inputs, _ in self.data.subset(self.samples).batches()]
        scores = _IMPORTANCE[self.importance](model, blocks, batches)
        order = sorted(range(len(blocks)), key=lambda place: (scores[place], -place))
        modules = {blocks[place]: model.get_submodule(blocks[place].path) for place in order}
        refused: list[str] = []
        for block, module in modules.items():
            if not wanted:
                break
            # Entries of a shortened list have new paths.
            path = next(path for path, other in model.named_modules() if other is module)
            if self._leave_out(model, replace(block, path=path), shapes):
                wanted -= 1
            else:
                refused.append(block.path)
        self.report(refused, "left: the model does not run, or gives another shape, without it")
        if len(refused) == len(blocks):
            raise NotApplicable(f"{knob.name}: the model needs all of its blocks to run")
        return model

    def _leave_out(self, model: nn.Module, block: Block, shapes: Sequence[torch.Size]) -> bool:
        for way in WAYS:
            if (undo := way(model, block)) is not None:
                if self._runs(model, shapes):
                    return True
                undo()
        return False

    def _runs(self, model: nn.Module, shapes: Sequence[torch.Size]) -> bool:
        try:
            outputs = outputs_of(model, self.example_inputs)
        except Exception:  # a user's forward pass may raise anything
            return False
        return [o.shape for o in outputs] == list(shapes) and all(bool(torch.isfinite(o).all()) for o in outputs)
