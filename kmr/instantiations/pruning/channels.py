"""Arithmetic of structured pruning: which channels to remove, independent of any model."""

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from kmr.core import KMRError


def channels_to_remove(
    scores: Sequence[Tensor],
    ratio: float,
    *,
    blocks: Sequence[int] | None = None,
    round_to: int = 1,
    scopes: Sequence[Hashable] | None = None,
) -> list[Tensor]:
    """Choose the least important channels, `round(ratio · n)` of n; at least one stays.

    Args:
        scores: the importance of each channel, one vector for each set; of equal scores the earlier is removed first.
        ratio: fraction to remove, 0 to 1; a half count rounds up.
        blocks: number of equal blocks of channels in each set (groups of a convolution or a normalisation, attention
            heads). Every block loses channels at the same positions, ranked by their mean score.
        round_to: the number of remaining channels is the multiple of this nearest to what the ratio asks for.
        scopes: sets with equal scope are ranked together, and the best channel of each set stays; None ranks each set
            alone.

    Returns:
        The sorted indices to remove, for each set.

    Raises:
        KMRError: the ratio is out of range, or `round_to` < 1.
    """
    if not 0 <= ratio <= 1:
        raise KMRError(f"the ratio of channels to remove must be in [0, 1], not {ratio}")
    if round_to < 1:
        raise KMRError(f"round_to must be at least 1, not {round_to}")
    blocks = [1] * len(scores) if blocks is None else blocks
    places = [score.detach().cpu().reshape(count, -1).mean(0) for score, count in zip(scores, blocks, strict=True)]
    counts = [_share(len(place), ratio) for place in places]
    for scope in dict.fromkeys(scopes or ()):
        members = [i for i, other in enumerate(scopes or ()) if other == scope]
        for i, count in zip(members, _ranked_together([places[i] for i in members], ratio), strict=True):
            counts[i] = count
    kept = [
        _rounded(len(place) - removed, len(place), _unit(round_to, count))
        for place, count, removed in zip(places, blocks, counts, strict=True)
    ]
    return [_lowest(*part) for part in zip(places, blocks, kept, strict=True)]


def channels_to_round(scores: Sequence[Tensor], unit: int, *, blocks: Sequence[int]) -> list[Tensor]:
    """Choose the least important channels so that a multiple of `unit` remains in each set.

    A set with fewer than `unit` channels stays whole.

    Args:
        scores: as for `channels_to_remove`.
        unit: the number of remaining channels is a multiple of this.
        blocks: as for `channels_to_remove`.
    """
    places = [score.detach().cpu().reshape(count, -1).mean(0) for score, count in zip(scores, blocks, strict=True)]
    kept = [
        len(place) // _unit(unit, count) * _unit(unit, count) or len(place)
        for place, count in zip(places, blocks, strict=True)
    ]
    return [_lowest(*part) for part in zip(places, blocks, kept, strict=True)]


def blocks_to_remove(scores: Tensor, ratio: float, blocks: int) -> Tensor:
    """Choose whole blocks of adjacent channels (attention heads) with the lowest mean scores; at least one stays.

    Args:
        scores: importance of each channel, (channels,).
        ratio: fraction of the blocks to remove, 0 to 1; a half count rounds up.
        blocks: number of equal blocks.

    Returns:
        The sorted indices of all channels of the blocks to remove.
    """
    size = len(scores) // blocks
    means = scores.detach().cpu().reshape(blocks, size).mean(1)
    count = min(_share(blocks, ratio), blocks - 1)
    lowest = torch.sort(means, stable=True).indices[:count]
    return (lowest[:, None] * size + torch.arange(size)).reshape(-1).sort().values


def _share(count: int, ratio: float) -> int:
    return math.floor(ratio * count + 0.5)


def _unit(round_to: int, blocks: int) -> int:
    """Return the number that the channels of one block must be a multiple of."""
    return math.lcm(round_to, blocks) // blocks


def _rounded(kept: int, count: int, unit: int) -> int:
    nearest = math.floor(kept / unit + 0.5) * unit
    return min(count, max(nearest, unit))


def _lowest(places: Tensor, blocks: int, kept: int) -> Tensor:
    lowest = torch.sort(places, stable=True).indices[: len(places) - kept]
    return torch.cat([lowest + block * len(places) for block in range(blocks)]).sort().values


def _ranked_together(places: Sequence[Tensor], ratio: float) -> list[int]:
    """Return the number of channels that each set loses when all are ranked together."""
    candidates = []
    for place in places:
        candidate = place.clone()
        candidate[torch.argmax(candidate)] = math.inf
        candidates.append(candidate)
    flat = torch.cat(candidates)
    lowest = torch.sort(flat, stable=True).indices[: _share(flat.numel(), ratio)]
    removed = torch.zeros(flat.numel(), dtype=torch.bool)
    removed[lowest] = True
    removed &= torch.isfinite(flat)
    return [int(part.sum()) for part in torch.split(removed, [len(place) for place in places])]
