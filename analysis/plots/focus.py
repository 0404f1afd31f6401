"""What part of an axis shows the front: a few models that lost everything must not squash all others."""

from __future__ import annotations

import numpy as np

from analysis.pareto.dominance import Floats

_BESIDE = 0.25
"""How much is shown beside what matters, as a share of its span."""
_WORTH = 1.5
"""An axis is cut only where all models together span this much more."""
_MARGIN = 0.05


def focus(matter: Floats, everything: Floats, log: bool = False) -> tuple[float, float] | None:
    """Return the ends of an axis that shows what matters and a quarter of its span beside it.

    Args:
        matter: values that must be seen, such as those of the front and the baseline.
        everything: values of all models.
        log: the axis is logarithmic; the ends are exponents of ten then, as plotly takes them.

    Returns:
        None where nothing far away has to be cut off, or what matters is one value.
    """
    known, every = _scaled(matter, log), _scaled(everything, log)
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
    """Mark the values that an axis with these ends does not show; without ends it shows all."""
    if ends is None:
        return np.zeros(len(values), dtype=np.bool_)
    low, high = (10**end if log else end for end in ends)
    return np.asarray((values < low) | (values > high), dtype=np.bool_)


def _scaled(values: Floats, log: bool) -> Floats:
    known = values[np.isfinite(values) & ((values > 0) if log else np.isfinite(values))]
    return np.log10(known) if log else known
