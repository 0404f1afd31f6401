"""Schedules of gradual pruning: the sparsity after each step."""

from typing import Literal, TypeAlias, get_args

from kmr.core import KMRError

Shape: TypeAlias = Literal["constant", "linear", "polynomial"]

SHAPES: tuple[str, ...] = get_args(Shape)


def sparsity_steps(final: float, steps: int, shape: Shape = "polynomial", power: float = 3.0) -> list[float]:
    """Return the sparsity after each step; the last is `final`.

    Args:
        final: the final sparsity s, 0 to 1.
        steps: the number of steps k, at least 1; 1 is one-shot.
        shape: `constant` removes the same share of the remaining weights each time (Han et al. 2015; Frankle & Carbin
            2019), `linear` the same share of all, and `polynomial` follows s·(1 − (1 − i/k)ᵖ), fast at first and slow
            at the end (Zhu & Gupta 2018, with p = 3).
        power: p, at least 1.

    Raises:
        KMRError: an argument is out of range.
    """
    if not 0 <= final <= 1:
        raise KMRError(f"the final sparsity must be in [0, 1], not {final}")
    if steps < 1 or power < 1:
        raise KMRError(f"a schedule needs steps >= 1 and power >= 1, not {steps} and {power}")
    if shape not in SHAPES:
        raise KMRError(f"the shape of a schedule must be one of {', '.join(SHAPES)}, not {shape!r}")
    shares = [step / steps for step in range(1, steps)]
    match shape:
        case "constant":
            found = [1 - (1 - final) ** share for share in shares]
        case "linear":
            found = [final * share for share in shares]
        case "polynomial":
            found = [final * (1 - (1 - share) ** power) for share in shares]
    return [*found, final]


def of_the_rest(sparsities: list[float]) -> list[float]:
    """Convert overall sparsities to the share of the remaining weights that each step removes."""
    left = 1.0
    shares = []
    for sparsity in sparsities:
        shares.append(1 - (1 - sparsity) / left if left > 0 else 0.0)
        left = 1 - sparsity
    return shares
