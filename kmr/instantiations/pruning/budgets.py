"""Arithmetic of sparsity: which entries to keep, and each layer's share, independent of any model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kmr.core import KMRError


def magnitude_keep(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """Return masks of the entries to keep: exactly `round(sparsity · n)` of all n are removed, the lowest scores first.

    Args:
        scores: one tensor for each layer, ranked together; of equal scores the earlier entry is removed first.
        sparsity: fraction of entries to remove, 0 to 1; a half count rounds up.

    Returns:
        One boolean tensor for each layer, in the shape of its scores.

    Raises:
        KMRError: the sparsity is out of range.
    """
    _check(sparsity)
    flat = torch.cat([score.detach().reshape(-1).cpu() for score in scores])
    removed = math.floor(sparsity * flat.numel() + 0.5)
    keep = torch.ones(flat.numel(), dtype=torch.bool)
    if removed:
        threshold = torch.kthvalue(flat, removed).values
        keep = flat >= threshold
        ties = torch.nonzero(flat == threshold).reshape(-1)
        keep[ties[: removed - int((~keep).sum())]] = False
    parts = torch.split(keep, [score.numel() for score in scores])
    return [part.reshape(score.shape).to(score.device) for part, score in zip(parts, scores, strict=True)]


def output_keep(score: Tensor, sparsity: float) -> Tensor:
    """Return a mask of the entries to keep: `round(sparsity · k)` of the k entries of every output are removed.

    Args:
        score: the scores of a weight, outputs in the first dimension; of equal scores the earlier is removed first.
        sparsity: 0 to 1; a half count rounds up.

    Raises:
        KMRError: the sparsity is out of range.
    """
    _check(sparsity)
    rows = score.detach().flatten(1)
    removed = math.floor(sparsity * rows.shape[1] + 0.5)
    keep = torch.ones_like(rows, dtype=torch.bool)
    keep.scatter_(1, torch.sort(rows, dim=1, stable=True).indices[:, :removed], False)
    return keep.reshape(score.shape)


def pattern_keep(score: Tensor, kept: int, of: int) -> Tensor | None:
    """Keep the `kept` entries with the highest scores in every `of` consecutive ones along the inputs (dimension 1).

    Returns:
        The mask, or None if the number of inputs is not a multiple of `of`. Of equal scores the earlier is kept.

    Raises:
        KMRError: `kept` is not between 1 and `of` − 1.
    """
    if not 0 < kept < of:
        raise KMRError(f"invalid pattern {kept}:{of}: it must keep 1 to m − 1 of m weights")
    inputs_last = score.detach().movedim(1, -1)
    if inputs_last.shape[-1] % of:
        return None
    blocks = inputs_last.reshape(*inputs_last.shape[:-1], -1, of)
    best = torch.sort(blocks, dim=-1, descending=True, stable=True).indices[..., :kept]
    keep = torch.zeros_like(blocks, dtype=torch.bool).scatter_(-1, best, True)
    return keep.reshape(inputs_last.shape).movedim(-1, 1).contiguous()


def erdos_renyi_kernel(shapes: Sequence[Sequence[int]], sparsity: float) -> list[float]:
    """Return each layer's sparsity; its density is proportional to (n_in + n_out + kernel sizes) / (their product).

    This is the Erdős–Rényi-kernel budget (Evci et al. 2020, RigL; for linear layers Mocanu et al. 2018): small layers
    stay denser. A layer whose density would exceed 1 is dense, and the others compensate.

    Args:
        shapes: the shapes of the weights.
        sparsity: the sparsity over all weights, 0 to 1.

    Raises:
        KMRError: the sparsity is out of range.
    """
    _check(sparsity)
    sizes = [math.prod(shape) for shape in shapes]
    wanted = (1 - sparsity) * sum(sizes)
    dense: set[int] = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        unit = sum(sum(shapes[i]) for i in rest)
        factor = (wanted - sum(sizes[i] for i in dense)) / unit if unit else 0.0
        over = [i for i in rest if factor * sum(shapes[i]) > sizes[i]]
        if not over:
            break
        dense.add(max(over, key=lambda i: sum(shapes[i]) / sizes[i]))
    return [0.0 if i in dense else 1 - factor * sum(shapes[i]) / sizes[i] for i in range(len(shapes))]


def lamp(score: Tensor) -> Tensor:
    """Return each entry's square as a share of the squares of all entries that are not smaller (Lee et al. 2021, LAMP).

    Ranked across layers, these scores adapt each layer's sparsity to its own distortion. The largest entry of a layer
    scores 1 and is removed last.

    Args:
        score: scores ≥ 0; |w| in the paper.
    """
    squares = score.detach().reshape(-1).double().square()
    order = torch.sort(squares, stable=True)
    # Of equal entries, the later one counts as surviving for the earlier.
    surviving = order.values.flip(0).cumsum(0).flip(0)
    shares = torch.empty_like(squares)
    shares[order.indices] = order.values / surviving.clamp_min(torch.finfo(torch.float64).tiny)
    return shares.reshape(score.shape)


def _check(sparsity: float) -> None:
    if not 0 <= sparsity <= 1:
        raise KMRError(f"sparsity must be in [0, 1], not {sparsity}")
