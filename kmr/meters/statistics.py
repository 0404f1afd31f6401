"""Standard errors of qualities, from statistics per sample."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

RESAMPLES = 100
"""Bootstrap samples for the standard error of a quality that is no mean."""


def ratio(statistics: Tensor, groups: Tensor | None) -> tuple[float, float]:
    """Return Σ score / Σ weight over rows (score, weight), and its standard error over independent groups of rows."""
    rows = by_group(statistics, groups)
    total = rows[:, 1].sum()
    mean = rows[:, 0].sum() / total
    deviations = rows[:, 0] - mean * rows[:, 1]
    return float(mean), float(deviations.square().sum().sqrt() / total)


def bootstrap(statistics: Tensor, groups: Tensor | None, value: Callable[[Tensor], float]) -> float | None:
    """Return the standard deviation of a value over bootstrap samples of rows, or of groups (Efron 1979).

    The samples are the same for all models with as many rows. None if fewer than two of them have a value.
    """
    units = _units(len(statistics), groups)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(RESAMPLES):
        rows = torch.randint(len(units), (len(units),), generator=generator)
        if not isinstance(units, range):
            rows = torch.cat([units[int(unit)] for unit in rows])
        try:
            found.append(value(statistics[rows]))
        except (ArithmeticError, ValueError):
            continue
    finite = torch.tensor([x for x in found if math.isfinite(x)], dtype=torch.float64)
    return float(finite.std()) if len(finite) > 1 else None


def smallest(samples: int) -> float:
    """Return the smallest credible standard error of a share of so many samples: 1 / (n + 1).

    It is the width of Wilson's interval (1927) at one standard error when all samples agree: of three out of three
    right, the share lies within [0.75, 1].
    """
    return 1 / (samples + 1)


def by_group(statistics: Tensor, groups: Tensor | None) -> Tensor:
    """Return sums of rows over groups, (groups, k), or the rows themselves."""
    if groups is None:
        return statistics
    places = torch.unique(groups, return_inverse=True)[1]
    sums = torch.zeros(int(places.max()) + 1, statistics.shape[1], dtype=statistics.dtype)
    return sums.index_add_(0, places, statistics)


def _units(rows: int, groups: Tensor | None) -> list[Tensor] | range:
    if groups is None:
        return range(rows)
    places = torch.unique(groups, return_inverse=True)[1]
    return [torch.nonzero(places == unit).flatten() for unit in range(int(places.max()) + 1)]
