"""Weight sharing across blocks (Algorithm 9): residual blocks and transformer layers of one shape share weights."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, final

import torch
from torch import Tensor, nn

from kmr.artifact.structure import describe
from kmr.core import KMRError, Knob, NotApplicable, Value
from kmr.data import Inputs
from kmr.instantiations.architecture import find_blocks
from kmr.instantiations.attention import leave_fast_path, split_attention
from kmr.instantiations.factored import Factorable
from kmr.instantiations.pruning.proof import brief
from kmr.instantiations.quantization import channel_dim, fit_like
from kmr.instantiations.replace import replace_module
from kmr.instantiations.sharing.fit import merges_together, shared_weight
from kmr.instantiations.sharing.sharing_rule import Ranked, SharingRule, choose_mergers, rank_mergers
from kmr.instantiations.sharing.tie import kind_of, tie, wide_enough
from kmr.representation.activations import QuantizedLayer, quantize_activations
from kmr.representation.weights import WeightState, read_weight, weight_layers, write_weight


@final
@dataclass(frozen=True, kw_only=True)
class BlockSharing(SharingRule):
    """Shared weights across blocks of one shape, as across the layers of ALBERT (Lan et al. 2020).

    The value is the share of the mergers that are done, of all that lead to one set of weights for each kind of block.
    Those that change the weights least, relative to their norms, come first. Each shared layer is one layer, used in
    several places and stored once; later rules find it so. Each block keeps its biases and normalisations, and the
    scales and differences asked for.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it, to find the blocks with.
        rank: of the difference that each block adds to a shared weight (Bae et al. 2025); 0 for none.
        whole: use one block, the mean of all, in every place; needs `scale` = none and `rank` = 0.
    """

    name: str = "share_blocks"
    example_inputs: Inputs = field(repr=False, compare=False)
    rank: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 0:
            raise KMRError(f"the rank of {self.name} must be at least 0, not {self.rank}")
        if self.whole and (self.scale != "none" or self.rank):
            raise KMRError(
                f"{self.name}: whole=true needs scale=none and rank=0, not scale={self.scale} and rank={self.rank}"
            )

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        blocks = self._blocks(model, knob)
        if not self.whole:
            # A packed projection is not a layer.
            model, left = split_attention(model, lambda path: _is_inside(path, blocks))
            self.report(left, "attention left as it is: it has keys of its own, shared weights or code of its own")
        layers = self._sharable(model, knob, blocks)
        kinds: dict[Hashable, list[str]] = {}
        for block in blocks:
            if layers[block]:
                kinds.setdefault(self._kind(model, block, layers[block]), []).append(block)
        ranked = [self._ranked([layers[block] for block in alike]) for alike in kinds.values()]
        if not any(ranked):
            raise NotApplicable(f"{knob.name}={value}: no two blocks of one kind would be smaller together")
        for alike, sets in zip(kinds.values(), choose_mergers(ranked, float(value)), strict=True):
            for places in sets:
                model = self._merged(model, [alike[place] for place in sorted(places)], layers)
        leave_fast_path(model)
        return model

    def _blocks(self, model: nn.Module, knob: Knob) -> list[str]:
        modes = [(module, module.training) for module in model.modules()]
        try:
            found = find_blocks(model.eval(), self.example_inputs)
        except Exception as error:  # a user's forward pass may raise anything
            raise NotApplicable(f"{knob.name}: the model does not run: {brief(error)}") from error
        finally:
            for module, training in modes:
                module.training = training
        return [block.path for block in found if self.governs(knob, block.path)]

    def _sharable(self, model: nn.Module, knob: Knob, blocks: Sequence[str]) -> dict[str, dict[str, Factorable]]:
        """Return the layers of each block that can be shared, by their path in it."""
        if not blocks:
            raise NotApplicable(f"{knob.name}: the model has no residual blocks")
        if self.whole:
            return {block: _factorable(model.get_submodule(block)) for block in blocks}
        found = self.sharable_of(model, knob, lambda path: _is_inside(path, blocks))
        # What is one layer in several blocks already stays that.
        places = Counter(id(m) for b in blocks for m in model.get_submodule(b).modules())
        return {
            block: {
                path.removeprefix(f"{block}."): layer
                for path, layer in found.items()
                if _is_inside(path, [block]) and places[id(layer)] == 1
            }
            for block in blocks
        }

    def _kind(self, model: nn.Module, block: str, layers: Mapping[str, Factorable]) -> Hashable:
        """Return what two blocks must have in common to share their weights."""
        shared = tuple((path, kind_of(layer)) for path, layer in layers.items())
        module = model.get_submodule(block)
        if not self.whole:
            return (type(module).__qualname__, shared)
        try:
            difference = str(describe(_first_like(model, module), module))
        except KMRError:  # it holds what cannot be compared
            return object()
        tree = tuple((path, type(inner).__qualname__) for path, inner in module.named_modules())
        shapes = tuple((name, tensor.shape) for name, tensor in module.state_dict().items())
        # One block replaces the other whole: all the rest of them must be the same as well.
        return (tree, shapes, shared, difference)

    def _ranked(self, blocks: Sequence[Mapping[str, Factorable]]) -> list[Ranked]:
        """Rank the mergers of blocks of one kind; none where what stays each block's own is more than is saved."""
        saved = 0
        for layer in blocks[0].values():
            rows, entries = len(layer.weight), layer.weight.numel()
            own = (0 if self.scale == "none" else rows) + self.rank * (rows + entries // rows)
            # What each place keeps is stored for both.
            saved += entries - 2 * own
        if saved <= 0:
            return []
        weights = [[read_weight(block[path]).weight for block in blocks] for path in blocks[0]]
        return rank_mergers(merges_together(weights, self.scale), saved)

    def _merged(
        self, model: nn.Module, blocks: Sequence[str], layers: Mapping[str, Mapping[str, Factorable]]
    ) -> nn.Module:
        if self.whole:
            modules = [model.get_submodule(block) for block in blocks]
            average(modules)
            for module in modules[1:]:
                model = replace_module(model, module, modules[0])
            return model
        for path in layers[blocks[0]]:
            model = tie(model, [layers[block][path] for block in blocks], self.scale, self.rank)
        return model


@torch.no_grad()
def average(blocks: Sequence[nn.Module]) -> None:
    """Give the first of several modules of one architecture the mean of all, in place.

    Weights on grids get a grid of the same kind, masks keep what any keeps, and variances count how far means lie
    apart.
    """
    for path, layer in weight_layers(blocks[0]):
        alike = [block.get_submodule(path) for block in blocks]
        states = [read_weight(each) for each in alike]
        weight, _ = shared_weight([state.weight for state in states], "none")
        keeps = [state.keep for state in states if state.keep is not None]
        keep = torch.stack(keeps).any(0) if len(keeps) == len(states) else None
        grid = None if states[0].grid is None else fit_like(states[0], weight, channel_dim(layer))
        write_weight(layer, WeightState(weight, grid, keep))
        if isinstance(layer, QuantizedLayer):
            quantize_activations(layer, inputs=wide_enough(alike), outputs=layer.output_quantizer)
    held = {id(p) for _, layer in weight_layers(blocks[0]) for n, p in layer.named_parameters() if n != "bias"}
    for name, parameter in blocks[0].named_parameters():
        if id(parameter) not in held:
            parameter.copy_(torch.stack([block.get_parameter(name) for block in blocks]).mean(0))
    for path, module in blocks[0].named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            means, variances = (
                torch.stack([cast(Tensor, getattr(block.get_submodule(path), name)) for block in blocks])
                for name in ("running_mean", "running_var")
            )
            module.running_mean.copy_(means.mean(0))
            cast(Tensor, module.running_var).copy_(variances.mean(0) + means.var(0, correction=0))


def _is_inside(path: str, blocks: Sequence[str]) -> bool:
    return any(path.startswith(f"{block}.") for block in blocks)


def _factorable(block: nn.Module) -> dict[str, Factorable]:
    return {path: cast(Factorable, layer) for path, layer in weight_layers(block)}


def _first_like(model: nn.Module, module: nn.Module) -> nn.Module:
    return next(other for other in model.modules() if type(other).__qualname__ == type(module).__qualname__)
