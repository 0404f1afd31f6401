"""Importance of knobs for the value of a meter and for reaching the front."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.pareto.dominance import BoolArray, Floats, ranks
from analysis.table import StudyTable

FEWEST = 12
_MOST_ROWS = 1500
_BINS = 12


class Importance(NamedTuple):
    """Importance of every knob in [0, 1]; `explained` is the out-of-bag R² of the forest, NaN without a forest."""

    shares: dict[str, float]
    explained: float
    rows: int


def knob_frame(table: StudyTable) -> pd.DataFrame:
    """Return the knob values of the models: one column per knob, NaN where a knob was not turned."""
    names = [str(name) for name in table.frame.columns if str(name).startswith("knob/")]
    return table.frame[names].rename(columns=lambda name: name.removeprefix("knob/"))


def importance(table: StudyTable, meter: str) -> Importance | None:
    """Attribute the variance of a meter to the knobs.

    The shares are total Sobol indices (Jansen 1999) of a random forest, fitted to at most 1,500 complete models. A
    knob's index includes its interactions, so the sum may exceed one. None below 12 models, or where the meter or all
    knobs are constant.
    """
    rows = table.complete.to_numpy(dtype=np.bool_) & np.isfinite(table.column(f"meter/{meter}"))
    rows = rows & ~table.uncompressed.to_numpy(dtype=np.bool_)
    chosen = _thin(np.flatnonzero(rows))
    codes = {name: _codes(column.iloc[chosen]) for name, column in knob_frame(table).items()}
    codes = {name: column for name, column in codes.items() if len(set(column.tolist())) > 1}
    target = table.column(f"meter/{meter}")[chosen]
    if len(chosen) < FEWEST or not codes or target.min() == target.max():
        return None
    from sklearn.ensemble import RandomForestRegressor

    features = np.column_stack(list(codes.values()))
    forest = RandomForestRegressor(64, min_samples_leaf=2, oob_score=True, random_state=0, n_jobs=1)
    forest.fit(features, target)
    indices = total_indices(forest.predict, features)
    return Importance(dict(zip(map(str, codes), indices.tolist(), strict=True)), float(forest.oob_score_), len(chosen))


def total_indices(predict: Any, features: Floats, repeats: int = 4) -> Floats:
    """Return the total Sobol index of every column of (n, d) `features` for a function of rows, (d,) floats in [0, 1].

    The index is half the mean squared change of `predict` when a column is shuffled, divided by the variance of the
    predictions. Columns are assumed to be independent.
    """
    random = np.random.default_rng(0)
    before = np.asarray(predict(features), dtype=np.float64)
    spread = before.var()
    if spread == 0:
        return np.zeros(features.shape[1])
    found = np.zeros(features.shape[1])
    for column in range(features.shape[1]):
        for _ in range(repeats):
            shuffled = features.copy()
            shuffled[:, column] = random.permutation(shuffled[:, column])
            found[column] += float(np.mean((before - np.asarray(predict(shuffled))) ** 2)) / (2 * spread * repeats)
    return np.minimum(found, 1.0)


def importance_for_front(table: StudyTable, share: float = 0.1) -> Importance | None:
    """Measure how each knob distinguishes the models on or near the front from all models.

    Follows Watanabe et al. 2023 (PED-ANOVA): the Pearson divergence between a knob's distribution in the best models
    and in all models, as shares that add up to one. The best models have the lowest non-domination ranks and are
    at least `share` of all. None below 12 models, or where all divergences are zero.
    """
    values = table.values(table.objectives)
    values[~(table.complete & ~table.uncompressed).to_numpy(dtype=np.bool_)] = np.nan
    rank = ranks(values, table.directions)
    rows = np.flatnonzero(rank >= 0)
    if len(rows) < FEWEST:
        return None
    limit = np.sort(rank[rows])[max(1, round(share * len(rows))) - 1]
    best = rank[rows] <= limit
    found = {str(name): divergence(_codes(column.iloc[rows]), best) for name, column in knob_frame(table).items()}
    total = sum(found.values())
    if not total or best.all():
        return None
    shares = {name: value / total for name, value in found.items() if value > 0}
    return Importance(shares, float("nan"), len(rows))


def divergence(values: Floats, best: BoolArray) -> float:
    """Return Σ p (q/p − 1)² between the distributions of all values, p, and of the `best` ones, q; both (n,).

    Values are counted by level, or in twelve bins of equal counts where there are more than twelve levels. The counts
    of the best values get one more count, distributed as all values are, so that no level has probability zero.
    """
    levels = np.unique(values)
    if len(levels) > _BINS:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
        codes = np.searchsorted(edges, values, side="right")
    else:
        codes = np.searchsorted(levels, values)
    everywhere = np.bincount(codes) / len(codes)
    used = everywhere > 0
    near = (np.bincount(codes[best], minlength=len(everywhere)) + everywhere) / (best.sum() + 1)
    return float((everywhere[used] * (near[used] / everywhere[used] - 1) ** 2).sum())


def _codes(column: pd.Series[Any]) -> Floats:
    """Convert a knob's values to numbers: words in alphabetical order, and "not turned" below all others."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    given = column.notna().to_numpy(dtype=np.bool_)
    if not (np.isfinite(numbers) == given).all():
        words = column.map(lambda value: json.dumps(value, default=str), na_action="ignore")
        numbers = pd.Categorical(words).codes.astype(np.float64)
        given = given & (numbers >= 0)
    if not given.any():
        return np.zeros(len(column))
    low, high = numbers[given].min(), numbers[given].max()
    return np.where(given, numbers, low - 0.1 * ((high - low) or 10.0))


def _thin(rows: np.ndarray[Any, np.dtype[np.intp]]) -> np.ndarray[Any, np.dtype[np.intp]]:
    if len(rows) <= _MOST_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(np.intp)]
