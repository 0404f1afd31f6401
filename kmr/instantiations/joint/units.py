"""Units of channels that are removed together: their positions in the weights, and their masks in training."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.data import Inputs
from kmr.instantiations.pruning.criteria.base import weight_rows
from kmr.instantiations.pruning.graph import ChannelGroup, Graph
from kmr.instantiations.pruning.proof import PER_CHANNEL, CutFailed
from kmr.instantiations.pruning.search import widest_cut
from kmr.instantiations.pruning.surgery import Cut, cut
from kmr.representation.weights import strip_all, tied_layers


class UnitMask(nn.Module):
    """A mask that holds the entries of a weight that read removed units at 0.

    Args:
        owners: the unit number of each entry of the weight; `units` for entries without a unit.
        units: number of units.
    """

    owners: Tensor
    there: Tensor

    def __init__(self, owners: Tensor, units: int) -> None:
        super().__init__()
        self.register_buffer("owners", owners)
        self.register_buffer("there", torch.ones(units + 1, dtype=torch.bool, device=owners.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the entries of removed units at 0."""
        return torch.where(self.there[self.owners], weight, torch.zeros((), dtype=weight.dtype, device=weight.device))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep the latent values as they are given."""
        return weight


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a model.

    Args:
        groups: the groups of channels.
        sets: the index of each unit's group, (U,).
        channels: each unit's channels in its group.
        owners: the unit of each entry in the weights that read channels, by layer path (see `UnitMask`).
        reads: the share of a layer's inputs that come from each unit, (U,), by path.
        makes: the share of a layer's outputs that belong to each unit, (U,), by path.
    """

    groups: tuple[ChannelGroup, ...]
    sets: Tensor
    channels: tuple[Tensor, ...]
    owners: Mapping[str, Tensor]
    reads: Mapping[str, Tensor]
    makes: Mapping[str, Tensor]

    @property
    def counts(self) -> Tensor:
        """The number of units of each group."""
        return torch.bincount(self.sets, minlength=len(self.groups))

    def gone_channels(self, gone: Tensor) -> dict[str, Tensor]:
        """Return the channels of the removed units, boolean (U,), by the root of their group."""
        found: dict[str, Tensor] = {}
        for place, group in enumerate(self.groups):
            members = torch.nonzero(gone & (self.sets == place)).reshape(-1).tolist()
            if members:
                found[group.root] = torch.cat([self.channels[unit] for unit in members]).sort().values
        return found


def find_groups(
    model: nn.Module, inputs: Inputs, governs: Callable[[str], bool]
) -> tuple[list[ChannelGroup], dict[str, list[str]]]:
    """Return the groups whose channels can be removed, proved by a trial cut, and the makers of others, by reason.

    Only weights of a known layout may read the channels, and no normalisation over channels may use them. A mask on the
    weights that read them is then equivalent to their removal.

    Args:
        model: the model; it is not changed.
        inputs: a batch.
        governs: tells whether the channels of the layer at a path may be removed.
    """
    left: dict[str, list[str]] = {}
    tied = tied_layers(model)
    plain = strip_all(copy.deepcopy(model))
    try:
        graph = Graph(plain, inputs)
    except CutFailed as reason:
        return [], {f"left whole: {reason}": ["the model"]}
    able = []
    for group in graph.groups:
        reading = [part for part in group.parts if not part.makes and len(part.positions)]
        known = [rows for rows in weight_rows(plain, group) if not rows.part.makes]
        if not all(governs(maker) for maker in group.makers):
            continue
        if not group.removable:
            left.setdefault("left whole: their channels cannot be removed", []).extend(group.makers)
        elif not known or len(known) < len(reading):
            left.setdefault("left whole: no weight of known layout reads their channels", []).extend(group.makers)
        elif not all(_alone(plain.get_submodule(part.path)) for part in group.parts):
            left.setdefault("left whole: a normalisation over channels uses them", []).extend(group.makers)
        elif any(part.path in tied for part in group.parts):
            left.setdefault("left whole: their weights are shared", []).extend(group.makers)
        elif len(_split(group)) > 1:
            able.append(group)

    def attempt(chosen: Sequence[ChannelGroup], prepared: Graph | None) -> Cut:
        first = {group.root: _split(group)[0] for group in chosen}
        return cut(plain, inputs, prepared or Graph(plain, inputs), first)

    if not able:
        return [], left
    try:
        _, reasons = widest_cut(able, graph, attempt)
    except CutFailed as failed:
        reasons = {group.root: str(failed) for group in able}
    for group in able:
        if group.root in reasons:
            why = f"left whole: their channels cannot be removed ({reasons[group.root]})"
            left.setdefault(why, []).extend(group.makers)
    return [group for group in able if group.root not in reasons], left


def find_units(model: nn.Module, groups: Sequence[ChannelGroup]) -> Units:
    """Return the units of groups: single channels, attention heads, or channels at the same position of all blocks."""
    plain = strip_all(copy.deepcopy(model))
    sets, channels = [], []
    for place, group in enumerate(groups):
        parts = _split(group)
        sets += [place] * len(parts)
        channels += parts
    units = len(channels)
    numbers: dict[str, Tensor] = {}
    owners: dict[str, Tensor] = {}
    reads: dict[str, Tensor] = {}
    makes: dict[str, Tensor] = {}
    for path in dict.fromkeys(part.path for group in groups for part in group.parts):
        weight = getattr(plain.get_submodule(path), "weight", None)
        if isinstance(weight, Tensor):
            numbers[path] = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape)
    first = 0
    for group in groups:
        count = len(_split(group))
        unit_of = torch.empty(group.size, dtype=torch.long)
        for unit in range(first, first + count):
            unit_of[channels[unit]] = unit
        first += count
        for rows in weight_rows(plain, group, numbers):
            path, of = rows.part.path, unit_of[rows.part.channels]
            share = torch.bincount(of, minlength=units).double() / len(rows.matrix)
            into = makes if rows.part.makes else reads
            into[path] = into.get(path, torch.zeros(units, dtype=torch.float64)) + share
            if not rows.part.makes:
                owner = owners.setdefault(path, torch.full_like(numbers[path], units))
                places = rows.matrix[rows.part.positions.to(rows.matrix.device)]
                owner.view(-1)[places.reshape(-1)] = of.to(owner.device).repeat_interleave(places.shape[1])
    return Units(tuple(groups), torch.tensor(sets, dtype=torch.long), tuple(channels), owners, reads, makes)


def put_masks(model: nn.Module, units: Units) -> dict[str, UnitMask]:
    """Register a mask on every weight that reads units, after its other parametrizations; return the masks by path."""
    masks = {}
    for path, owners in units.owners.items():
        masks[path] = UnitMask(owners, len(units.channels))
        parametrize.register_parametrization(model.get_submodule(path), "weight", masks[path])
    return masks


def latent_weight(layer: nn.Module) -> nn.Parameter:
    """Return the parameter of a layer's weight that an optimizer moves."""
    held = parametrize.is_parametrized(layer, "weight")
    return cast(nn.Parameter, layer.parametrizations.weight.original if held else layer.weight)  # type: ignore[union-attr]


def _alone(module: nn.Module) -> bool:
    """Tell whether a module computes a channel independently of the others."""
    return isinstance(module, PER_CHANNEL)


def _split(group: ChannelGroup) -> list[Tensor]:
    numbers = torch.arange(group.size)
    if group.heads > 1:
        return list(numbers.reshape(group.heads, -1))
    return list(numbers.reshape(group.blocks, -1).T.contiguous())
