"""Which outputs of an original layer those of a compressed one are.

Removing channels keeps the others in order. So a smaller layer's rows are found again among the original's, in order,
by the numbers they hold; and where training has changed those since, by what the two layers put out on the same data.
"""

import torch
from torch import Tensor


def rows_by_values(smaller: Tensor, original: Tensor) -> Tensor | None:
    """Return for each row of a cut weight the row of the original it was cut from; None unless all are found.

    Args:
        smaller: shape (m, …); its zeros, which a mask may have put there, say nothing.
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
    """Return the increasing channel numbers that correlate most with a smaller layer's outputs, in sum.

    Args:
        smaller: shape (n, m).
        original: shape (n, c), c ≥ m, at the same places.
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
