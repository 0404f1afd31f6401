"""Which channels to remove: the arithmetic of structured pruning, apart from any model."""

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
    """Choose the channels of least importance, `round(ratio · n)` of n, and leave at least one.

    Args:
        scores: one vector for each set of channels, the importance of each; equal ones are removed in order.
        ratio: fraction to remove, 0 to 1; a half count rounds up.
        blocks: for each set, in how many equal blocks its channels lie (groups of a convolution or a normalisation,
            attention heads). Every block loses channels at the same places, ranked by their mean score.
        round_to: the number of channels kept is the multiple of this nearest to what the ratio asks.
        scopes: sets of equal scope are ranked as one, and the best of each always stays; None ranks each set alone.

    Returns:
        For each set the sorted indices to remove.
    """
    if not 0 <= ratio <= 1:
        raise KMRError(f"the ratio of channels to remove must lie in [0, 1], not {ratio}")
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
    """Choose the channels of least importance so that a multiple of `unit` is left of each set.

    A set of fewer than `unit` channels stays whole.

    Args:
        scores: as for `channels_to_remove`.
        unit: what the number of channels left is a multiple of.
        blocks: as for `channels_to_remove`.
    """
    places = [score.detach().cpu().reshape(count, -1).mean(0) for score, count in zip(scores, blocks, strict=True)]
    kept = [
        len(place) // _unit(unit, count) * _unit(unit, count) or len(place)
        for place, count in zip(places, blocks, strict=True)
    ]
    return [_lowest(*part) for part in zip(places, blocks, kept, strict=True)]


def blocks_to_remove(scores: Tensor, ratio: float, blocks: int) -> Tensor:
    """Choose whole blocks of neighbouring channels (attention heads) of least mean score; at least one is left.

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
    """Return what the channels of one block must be a multiple of."""
    return math.lcm(round_to, blocks) // blocks


def _rounded(kept: int, count: int, unit: int) -> int:
    nearest = math.floor(kept / unit + 0.5) * unit
    return min(count, max(nearest, unit))


def _lowest(places: Tensor, blocks: int, kept: int) -> Tensor:
    lowest = torch.sort(places, stable=True).indices[: len(places) - kept]
    return torch.cat([lowest + block * len(places) for block in range(blocks)]).sort().values


def _ranked_together(places: Sequence[Tensor], ratio: float) -> list[int]:
    """Return how many places each set loses when all are ranked as one."""
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
