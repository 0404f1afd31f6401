"""Focus of an axis on the front, so that a few very poor models do not compress all others."""

from __future__ import annotations

import numpy as np

from analysis.pareto.dominance import Floats

_BESIDE = 0.25
"""The margin beside the values that must be seen, as a share of their span."""
_WORTH = 1.5
"""An axis is cut only if all values span this many times as much."""
_MARGIN = 0.05


def focus(matter: Floats, everything: Floats, log: bool = False) -> tuple[float, float] | None:
    """Return the ends of an axis that shows the values that matter and a quarter of their span beside them.

    Args:
        matter: values that must be seen, such as those of the front and the baseline.
        everything: values of all models.
        log: the axis is logarithmic; its ends are then exponents of ten, as in plotly.

    Returns:
        None if there is nothing to cut, or only one value matters.
    """
    known, every = _scale(matter, log), _scale(everything, log)
    if not len(known) or known.min() == known.max():
        return None
    every = np.concatenate([every, known])
    span = known.max() - known.min()
    low = max(every.min(), known.min() - _BESIDE * span)
    high = min(every.max(), known.max() + _BESIDE * span)
    if every.max() - every.min() <= _WORTH * (high - low):
        return None
    margin = _MARGIN * (high - low)
    return float(low - margin), float(high + margin)


def outside(
    values: Floats, ends: tuple[float, float] | None, log: bool = False
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Mark the values outside an axis with these ends; without ends there are none."""
    if ends is None:
        return np.zeros(len(values), dtype=np.bool_)
    low, high = (10**end if log else end for end in ends)
    return np.asarray((values < low) | (values > high), dtype=np.bool_)


def _scale(values: Floats, log: bool) -> Floats:
    known = values[np.isfinite(values) & ((values > 0) if log else np.isfinite(values))]
    return np.log10(known) if log else known
