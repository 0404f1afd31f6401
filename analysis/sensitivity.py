"""Sensitivity of layers: groups of similar sensitivity, and the strongest compression within an allowed loss.

A scan is a table with a row for each layer (or group of coupled layers) and value of its knob: `layer`, `value`, and
`lost` (the loss of quality; missing where the rule could not be applied). A value further from the knob's neutral value
compresses more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd


class LayerGroup(NamedTuple):
    """A group of similar layers: the mean loss for each value of the knob, the mildest value first."""

    name: str
    layers: tuple[str, ...]
    lost: Mapping[float, float]


def layer_groups(scan: pd.DataFrame, most: int = 20, neutral: float = 0.0) -> list[LayerGroup]:
    """Group the layers of a scan by sensitivity, the least sensitive first.

    Args:
        scan: a table as the module describes it.
        most: the largest number of groups.
        neutral: the knob's neutral value.

    Layers are ordered by mean loss and cut into `most` groups with the least squared deviation from the group means
    (Fisher 1958). There are fewer groups where mean losses are equal.

    Raises:
        ValueError: no layer of the scan was measured, or `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"at least one group is needed, not {most}")
    table = scan.pivot_table(index="layer", columns="value", values="lost", aggfunc="mean", sort=False)
    table = table.dropna(how="all")
    if table.empty:
        raise ValueError("the scan has no measured layer; there is nothing to group")
    mean = table.mean(axis=1)
    order = np.argsort(mean.to_numpy(), kind="stable")
    ordered = mean.to_numpy()[order]
    starts = _cuts(ordered, min(most, len(np.unique(ordered))))
    groups = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(ordered)], strict=True)):
        rows = table.iloc[order[start:end]]
        values = sorted(rows.columns, key=lambda value: abs(float(value) - neutral))
        lost = {float(value): float(rows[value].mean()) for value in values if rows[value].notna().any()}
        groups.append(LayerGroup(f"g{number + 1}", tuple(map(str, rows.index)), lost))
    return groups


def allocation(groups: Sequence[LayerGroup], allowed: float, neutral: float = 0.0) -> dict[str, float]:
    """Return each group's strongest value with an allowed loss at it and at all milder ones, else the neutral value."""
    chosen = {}
    for group in groups:
        chosen[group.name] = neutral
        for value, loss in group.lost.items():
            if loss > allowed:
                break
            chosen[group.name] = value
    return chosen


def tolerances(groups: Sequence[LayerGroup], count: int) -> list[float]:
    """Return `count` allowed losses of a layer: evenly spaced quantiles of the groups' losses."""
    losses = np.array(sorted({max(loss, 0.0) for group in groups for loss in group.lost.values()}))
    if not len(losses) or count < 1:
        return []
    return [float(loss) for loss in np.quantile(losses, (np.arange(count) + 1) / (count + 1))]


def _cuts(values: np.ndarray, count: int) -> list[int]:
    """Return the starts of the parts of sorted values with the least sum of squared deviations."""
    n = len(values)
    total, squares = np.concatenate([[0.0], values.cumsum()]), np.concatenate([[0.0], (values**2).cumsum()])

    def deviation(start: int, end: int) -> float:
        mean = (total[end] - total[start]) / (end - start)
        return float(squares[end] - squares[start] - (end - start) * mean**2)

    best = np.full((count + 1, n + 1), np.inf)
    back = np.zeros((count + 1, n + 1), dtype=int)
    best[0, 0] = 0.0
    for parts in range(1, count + 1):
        for end in range(parts, n + 1):
            options = [best[parts - 1, start] + deviation(start, end) for start in range(parts - 1, end)]
            back[parts, end] = parts - 1 + int(np.argmin(options))
            best[parts, end] = min(options)
    starts, end = [], n
    for parts in range(count, 0, -1):
        end = int(back[parts, end])
        starts.append(end)
    return starts[::-1]
