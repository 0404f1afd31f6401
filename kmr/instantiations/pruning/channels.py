"""Which channels to remove: the arithmetic of structured pruning, apart from any model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kmr.core import KMRError


def channels_to_remove(
    scores: Sequence[Tensor],
    ratio: float,
    *,
    blocks: Sequence[int] | None = None,
    round_to: int = 1,
    together: bool = False,
) -> list[Tensor]:
    """Choose the channels of least importance, `round(ratio · n)` of n, and leave at least one.

    Args:
        scores: one vector for each set of channels, the importance of each; equal ones are removed in order.
        ratio: fraction to remove, 0 to 1; a half count rounds up.
        blocks: for each set, in how many equal blocks its channels lie (groups of a convolution or a normalisation,
            attention heads). Every block loses channels at the same places, ranked by their mean score.
        round_to: the number of channels kept is the multiple of this nearest to what the ratio asks.
        together: rank the channels of all sets as one, instead of each set alone; the best of a set always stays.

    Returns:
        For each set the sorted indices to remove.
    """
    if not 0 <= ratio <= 1:
        raise KMRError(f"the ratio of channels to remove must lie in [0, 1], not {ratio}")
    if round_to < 1:
        raise KMRError(f"round_to must be at least 1, not {round_to}")
    blocks = [1] * len(scores) if blocks is None else blocks
    places = [score.detach().cpu().reshape(count, -1).mean(0) for score, count in zip(scores, blocks, strict=True)]
    counts = _ranked_together(places, ratio) if together else [_share(len(place), ratio) for place in places]
    chosen = []
    for place, count, removed in zip(places, blocks, counts, strict=True):
        kept = _rounded(len(place) - removed, len(place), math.lcm(round_to, count) // count)
        lowest = torch.sort(place, stable=True).indices[: len(place) - kept]
        chosen.append(torch.cat([lowest + block * len(place) for block in range(count)]).sort().values)
    return chosen


def _share(count: int, ratio: float) -> int:
    return math.floor(ratio * count + 0.5)


def _rounded(kept: int, count: int, unit: int) -> int:
    nearest = math.floor(kept / unit + 0.5) * unit
    return min(count, max(nearest, unit))


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
