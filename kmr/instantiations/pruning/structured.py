"""Structured pruning by dependency groups (Algorithm 4; DepGraph, Fang et al. 2023): channels and neurons disappear."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from torch import Tensor, nn

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Value
from kmr.data import Inputs
from kmr.instantiations.layers import LayerRule
from kmr.instantiations.pruning.channels import channels_to_remove
from kmr.instantiations.pruning.proof import CutFailed
from kmr.instantiations.pruning.surgery import (
    ChannelGroup,
    Cut,
    channel_groups,
    cut,
    sliced,
    sliced_like,
)
from kmr.instantiations.quantization.quantizers import fit_like
from kmr.weights import Codebook, Grid, WeightState, strip, weight_layers, write_weight

_NORM = {"l1": 1, "l2": 2}
_MOST_CUTS = 48
"""Trial cuts in the search for groups that can go; past it, groups not yet tried stay whole."""


@final
@dataclass(frozen=True, kw_only=True)
class StructuredPruning(LayerRule):
    """Remove the channels and neurons of least group magnitude, with everything that depends on them.

    The value is the fraction of channels removed from every group of layers whose channels go together (or from all of
    them as one, `global_ranking`). A group is removed from only where the knob governs every layer that makes its
    channels. What makes the model's output keeps its width, and so do recurrent layers. Where the network's code fixes
    a width, the groups that touch it stay whole and are reported. Masks and grids are cut along with the weights.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        criterion: magnitude of a channel as the sum of absolute (`l1`) or squared (`l2`) weights.
        global_ranking: rank the channels of all groups together, each relative to its group's mean.
        round_to: groups keep the multiple of this many channels nearest to what the ratio asks.
    """

    name: str = "structured"
    example_inputs: Inputs = field(repr=False, compare=False)
    criterion: Literal["l1", "l2"] = "l2"
    global_ranking: bool = False
    round_to: int = 1
    setting: ClassVar[str] = "ratio"
    domain: ClassVar[Domain] = FloatRange(0.0, 0.9, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion not in _NORM:
            raise KMRError(f"the criterion of {self.name} must be l1 or l2, not {self.criterion!r}")
        if self.round_to < 1:
            raise KMRError(f"round_to of {self.name} must be at least 1, not {self.round_to}")

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        states = {path: strip(layer) for path, layer in weight_layers(model)}
        try:
            groups = self._governed(model, knob)
            chosen = self._choose(groups, float(value))
            untouched = [group for group, channels in zip(groups, chosen, strict=True) if not len(channels)]
            if not self.global_ranking or len(untouched) == len(groups):
                # Ranked together, a group that loses nothing still counts in the share that the others lose.
                self.report(_makers(untouched), f"left whole: {value:g} of their channels is less than one to remove")
                groups = [group for group in groups if group not in untouched]
            smaller = self._search(model, groups, float(value)) if groups else Cut(model, {})
        except CutFailed as reason:
            raise NotApplicable(f"{knob.name}: {reason}") from reason
        _hold(smaller, states)
        return smaller.model

    def _governed(self, model: nn.Module, knob: Knob) -> list[ChannelGroup]:
        recurrent = [
            path for path, m in model.named_modules() if isinstance(m, nn.RNNBase) and self.governs(knob, path)
        ]
        self.report(recurrent, "left as they are: recurrent layers keep their width")
        groups = channel_groups(model, self.example_inputs, _NORM[self.criterion])
        inside = [group for group in groups if all(self.governs(knob, maker) for maker in group.makers)]
        partly = _makers(group for group in groups if group not in inside)
        self.report(
            (maker for maker in partly if self.governs(knob, maker)),
            "left whole: their channels go with those of layers the knob does not govern",
        )
        unknown = [group for group in inside if not len(group.scores)]
        self.report(_makers(unknown), "left whole: their channels cannot be ranked or removed")
        inside = [group for group in inside if len(group.scores)]
        if not inside:
            raise NotApplicable(f"{knob.name}: no layer whose channels can go without changing the output's shape")
        return inside

    def _choose(self, groups: Sequence[ChannelGroup], ratio: float) -> list[Tensor]:
        return channels_to_remove(
            [group.scores for group in groups],
            ratio,
            blocks=[group.blocks for group in groups],
            round_to=self.round_to,
            together=self.global_ranking,
        )

    def _search(self, model: nn.Module, groups: list[ChannelGroup], ratio: float) -> Cut:
        """Return the cut through as many groups as can be cut together; report the others."""
        cuts = 0
        reason = CutFailed()

        def attempt(allowed: Iterable[ChannelGroup]) -> Cut | None:
            nonlocal cuts, reason
            cuts += 1
            roots = frozenset(group.root for group in allowed)
            try:
                return cut(
                    model, self.example_inputs, _NORM[self.criterion], roots, lambda found: self._choose(found, ratio)
                )
            except CutFailed as failed:
                reason = failed
                return None

        best = attempt(groups)
        if best is not None:
            return best
        why = reason
        simple = [group for group in groups if group.simple]
        kept = simple
        best = attempt(simple) if simple else None
        if best is None:
            kept = []
        for group in groups:
            if group not in kept and cuts < _MOST_CUTS:
                wider = attempt([*kept, group])
                if wider is not None:
                    kept, best = [*kept, group], wider
        if best is None:
            raise why
        left = [group for group in groups if group not in kept]
        self.report(_makers(left), f"left whole: their channels cannot go ({why})")
        return best


def _cut_grid(state: WeightState, grid: Grid | Codebook, survivors: Tensor) -> Grid | Codebook:
    """Return the grid of what is left of a weight; groups of entries that no longer lie together are fitted anew."""
    if isinstance(grid, Codebook):
        return grid
    if not grid.group:
        scale, zero_point = (sliced_like(t, state.weight.shape, survivors) for t in (grid.scale, grid.zero_point))
        return grid.like(scale, zero_point)
    columns = state.weight[:1].numel()
    if survivors[:1].numel() == columns:
        rows = survivors.flatten(1)[:, 0].to(grid.scale.device) // columns
        return grid.like(grid.scale[rows], grid.zero_point[rows])
    return fit_like(state, sliced(state.weight, survivors), 0)


def _makers(groups: Iterable[ChannelGroup]) -> list[str]:
    return [maker for group in groups for maker in group.makers]


def _hold(smaller: Cut, states: dict[str, WeightState]) -> None:
    """Put the masks and grids that held the full weights on the cut ones, cut alike."""
    for path, layer in weight_layers(smaller.model):
        state = states[path]
        if state.grid is None and state.keep is None:
            continue
        survivors = smaller.survivors.get((path, "weight"))
        if survivors is None:
            write_weight(layer, state)
            continue
        keep = None if state.keep is None else sliced(state.keep, survivors)
        grid = state.grid
        if grid is not None:
            grid = _cut_grid(state, grid, survivors)
        write_weight(layer, WeightState(layer.weight.detach(), grid, keep))
