"""Matching of a compressed layer's outputs to those of the original layer.

Removing channels keeps the order of the others. A smaller layer's rows are therefore found among the original's in
order, by their values. If training has changed the values, the two layers' outputs on the same data decide.
"""

import torch
from torch import Tensor


def rows_by_values(smaller: Tensor, original: Tensor) -> Tensor | None:
    """Return the original's row number for each row of a cut weight; None unless all are found.

    Args:
        smaller: shape (m, …); its zeros are ignored, since a mask may have put them there.
        original: shape (n, …), n ≥ m.
    """
    small, full = smaller.flatten(1), original.flatten(1)
    if len(small) == len(full):
        return torch.arange(len(full))
    found: list[int] = []
    row = 0
    for values in small:
        values = values[values != 0]
        while row < len(full) and not (len(values) and bool(torch.isin(values, full[row]).all())):
            row += 1
        if row == len(full):
            return None
        found.append(row)
        row += 1
    return torch.tensor(found)


def channels_by_outputs(smaller: Tensor, original: Tensor) -> Tensor:
    """Return the increasing channel numbers with the largest total correlation to a smaller layer's outputs.

    Args:
        smaller: shape (n, m).
        original: shape (n, c), c ≥ m, for the same samples and positions.
    """
    likeness = (_standard(smaller).mT @ _standard(original)).cpu()
    rows, columns = likeness.shape
    worst = torch.tensor(-float("inf"), dtype=likeness.dtype)
    # best[i, j]: the largest sum with the first i rows among the first j columns.
    best = [torch.zeros(columns + 1, dtype=likeness.dtype)]
    for row in likeness:
        ending = best[-1][:-1] + row
        best.append(torch.cat([worst[None], torch.cummax(ending, 0).values]))
    chosen = []
    column = columns
    for row in range(rows, 0, -1):
        while best[row][column - 1] == best[row][column]:
            column -= 1
        column -= 1
        chosen.append(column)
    return torch.tensor(chosen[::-1])


def _standard(outputs: Tensor) -> Tensor:
    centred = outputs.double() - outputs.double().mean(0)
    standard: Tensor = centred / torch.linalg.vector_norm(centred, dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    return standard
