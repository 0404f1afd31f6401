"""The batches of a training epoch, without a last batch of one sample."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kmr.core import KMRError
from kmr.data import Inputs, Split, length_of
from kmr.data.structures import joined


def training_batches(data: Split, seed: int, drop_last: bool) -> Iterator[tuple[Tensor | None, Inputs, Any]]:
    """Yield (places, inputs, targets) in an order drawn by a seed.

    A last batch of one sample joins the batch before it; where the two cannot be joined, it is left out.

    Args:
        data: the split.
        seed: draws the order.
        drop_last: leave out the last batch if it is smaller than the others.
    """
    held: tuple[Tensor | None, Inputs, Any] | None = None
    size = 0
    for batch in data.numbered_batches(shuffle_seed=seed):
        samples = length_of(batch[1] if batch[2] is None else batch[2])
        smaller = held is not None and samples < size
        size = max(size, samples)
        if held is not None and smaller and drop_last:
            continue
        if held is not None and smaller and samples == 1:
            batch = _together(held, batch)
            held = None
        if held is not None:
            yield held
        held = batch
    if held is not None:
        yield held


def _together(
    one: tuple[Tensor | None, Inputs, Any], other: tuple[Tensor | None, Inputs, Any]
) -> tuple[Tensor | None, Inputs, Any]:
    """Join two batches, or return the first if samples differ in shape."""
    try:
        places = None if one[0] is None or other[0] is None else torch.cat([one[0], other[0]])
        targets = None if one[2] is None else joined([one[2], other[2]])
        return places, joined([one[1], other[1]]), targets
    except KMRError:
        return one
