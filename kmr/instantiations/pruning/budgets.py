"""How sparse each layer is to be: the arithmetic of layer budgets, apart from any model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kmr.core import KMRError


def magnitude_keep(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """Tell which entries to keep so that exactly `round(sparsity · n)` of all n are removed, the lowest scores first.

    Args:
        scores: one tensor for each layer, ranked together; of equal scores the earlier entry is removed first.
        sparsity: fraction of entries to remove, 0 to 1; a half count rounds up.

    Returns:
        One boolean tensor for each layer, in the shape of its scores.
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
    """Tell which entries to keep so that `round(sparsity · k)` of the k entries of every output are removed.

    Args:
        score: of a weight whose first dimension numbers the outputs; of equal scores the earlier goes first.
        sparsity: 0 to 1; a half count rounds up.
    """
    _check(sparsity)
    rows = score.detach().flatten(1)
    removed = math.floor(sparsity * rows.shape[1] + 0.5)
    keep = torch.ones_like(rows, dtype=torch.bool)
    keep.scatter_(1, torch.sort(rows, dim=1, stable=True).indices[:, :removed], False)
    return keep.reshape(score.shape)


def pattern_keep(score: Tensor, kept: int, of: int) -> Tensor | None:
    """Keep the `kept` entries of highest score in every `of` that follow each other along the inputs (dimension 1).

    Returns:
        The mask; None where the number of inputs is no multiple of `of`. Of equal scores the earlier is kept.
    """
    if not 0 < kept < of:
        raise KMRError(f"a pattern keeps 1 to m − 1 of m weights, not {kept} of {of}")
    inputs_last = score.detach().movedim(1, -1)
    if inputs_last.shape[-1] % of:
        return None
    blocks = inputs_last.reshape(*inputs_last.shape[:-1], -1, of)
    best = torch.sort(blocks, dim=-1, descending=True, stable=True).indices[..., :kept]
    keep = torch.zeros_like(blocks, dtype=torch.bool).scatter_(-1, best, True)
    return keep.reshape(inputs_last.shape).movedim(-1, 1).contiguous()


def erdos_renyi_kernel(shapes: Sequence[Sequence[int]], sparsity: float) -> list[float]:
    """Return each layer's sparsity so that its density goes as (n_in + n_out + kernel sizes) / (their product).

    The Erdős–Rényi-kernel budget (Evci et al. 2020, RigL; of linear layers Mocanu et al. 2018): small layers are left
    denser. A layer that would have to be denser than dense is dense, and the others make up for it.

    Args:
        shapes: of the weights.
        sparsity: of all weights together, 0 to 1.
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
    """Return each entry's share of the squares of all entries that are no smaller (Lee et al. 2021, LAMP).

    Ranked across layers, these remove from each layer as much as its own distortion allows; the largest entry of a
    layer scores 1 and goes last.

    Args:
        score: ≥ 0; the paper's is |w|.
    """
    squares = score.detach().reshape(-1).double().square()
    order = torch.sort(squares, stable=True)
    # Of equal entries the later one is surviving when the earlier is judged.
    surviving = order.values.flip(0).cumsum(0).flip(0)
    shares = torch.empty_like(squares)
    shares[order.indices] = order.values / surviving.clamp_min(torch.finfo(torch.float64).tiny)
    return shares.reshape(score.shape)


def _check(sparsity: float) -> None:
    if not 0 <= sparsity <= 1:
        raise KMRError(f"sparsity must lie in [0, 1], not {sparsity}")
