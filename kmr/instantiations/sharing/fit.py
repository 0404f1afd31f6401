"""One weight for several layers: its error, and the best mergers of layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Scale: TypeAlias = Literal["none", "layer", "channel"]


@dataclass(frozen=True)
class Merge:
    """Two sets of layers that come to share a weight.

    Args:
        one: places of the layers of the first set.
        other: of the second.
        loss: the growth of the error of all of them, in squared norms of a layer's weight.
    """

    one: tuple[int, ...]
    other: tuple[int, ...]
    loss: float


def shared_weight(weights: Sequence[Tensor], scale: Scale) -> tuple[Tensor, Tensor | None]:
    """Return the weight that comes closest to several of one shape, and its scale in each layer.

    The squared error relative to each layer's squared norm is the least there is: without scales the mean (there with
    one norm for all), with them the first right singular vector of the flattened weights, or of their rows for each
    channel (Eckart and Young 1936).

    Args:
        weights: each of shape (channels, …).
        scale: one number for each `layer`, one for each output `channel` of each, or `none`.

    Returns:
        The weight, and scales of shape (layers, channels), or None without. In each channel the mean of the squared
        scales is 1, and the first layer's are not negative.
    """
    rows = _rows(weights, scale)
    shape, dtype = weights[0].shape, weights[0].dtype
    if scale == "none":
        return torch.stack([weight.double() for weight in weights]).mean(0).to(dtype), None
    norms = _norms(weights, scale)
    # (groups, layers, entries): the rows of a group are multiples of one vector as nearly as they can be.
    left, singular, right = torch.linalg.svd(rows.transpose(0, 1), full_matrices=False)
    scales = left[..., 0] * norms
    strength = scales.square().mean(1).sqrt().clamp(min=1e-30)
    sign = torch.where(scales[:, :1] < 0, -1.0, 1.0).double()
    scales = scales * sign / strength[:, None]
    vector = right[:, 0] * (singular[:, :1] * strength[:, None] * sign)
    return vector.reshape(shape).to(dtype), scales.T.expand(-1, shape[0]).to(dtype).contiguous()


def merges(weights: Sequence[Tensor], scale: Scale) -> list[Merge]:
    """Return, in order, the mergers that lead from a weight for each layer to one for all, always the best one next.

    Args:
        weights: of one shape.
        scale: as for `shared_weight`.
    """
    return merges_together([weights], scale)


def merges_together(weights: Sequence[Sequence[Tensor]], scale: Scale) -> list[Merge]:
    """Return, in order, the mergers of blocks of layers, whose losses are the sums over their layers.

    Args:
        weights: for each layer of a block, its weight in each of the blocks, of one shape.
        scale: as for `shared_weight`.
    """
    grams = []
    for alike in weights:
        rows = _rows(alike, scale).transpose(0, 1)
        grams.append(rows @ rows.transpose(1, 2))
    sets: dict[tuple[int, ...], float] = {(place,): 0.0 for place in range(len(weights[0]))}
    found = []
    while len(sets) > 1:
        best: Merge | None = None
        ordered = list(sets)
        for at, one in enumerate(ordered):
            for other in ordered[at + 1 :]:
                both = sum(_loss(gram, (*one, *other), scale) for gram in grams)
                loss = both - sets[one] - sets[other]
                if best is None or loss < best.loss:
                    best = Merge(one, other, max(0.0, loss))
        assert best is not None
        sets[(*best.one, *best.other)] = sets.pop(best.one) + sets.pop(best.other) + best.loss
        found.append(best)
    return found


def _loss(gram: Tensor, places: tuple[int, ...], scale: Scale) -> float:
    """Return the squared error of one weight for some of the layers."""
    part = gram[:, places][:, :, places]
    whole = part.diagonal(dim1=1, dim2=2).sum()
    kept = part.sum() / len(places) if scale == "none" else torch.linalg.eigvalsh(part)[:, -1].sum()
    return float(whole - kept)


def _norms(weights: Sequence[Tensor], scale: Scale) -> Tensor:
    norms = torch.stack([weight.double().norm() for weight in weights]).clamp(min=1e-30)
    return norms if scale != "none" else norms.square().mean().sqrt().expand(len(weights))


def _rows(weights: Sequence[Tensor], scale: Scale) -> Tensor:
    """Return the weights divided by their norms, of shape (layers, groups, entries that share a scale)."""
    stacked = torch.stack([weight.double() for weight in weights])
    normed = stacked.flatten(1) / _norms(weights, scale)[:, None]
    return normed.reshape(len(weights), weights[0].shape[0] if scale == "channel" else 1, -1)
