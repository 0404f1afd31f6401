"""How much to prune at each of several steps: the arithmetic of iterative pruning."""

from typing import Literal, TypeAlias, get_args

from kmr.core import KMRError

Shape: TypeAlias = Literal["constant", "linear", "polynomial"]

SHAPES: tuple[str, ...] = get_args(Shape)


def sparsity_steps(final: float, steps: int, shape: Shape = "polynomial", power: float = 3.0) -> list[float]:
    """Return the sparsity after each step; the last is `final`.

    Args:
        final: 0 to 1.
        steps: at least 1; 1 is one-shot.
        shape: `constant` removes the same share of what is left each time (Han et al. 2015; Frankle & Carbin 2019),
            `linear` the same share of all, and `polynomial` follows s·(1 − (1 − i/k)ᵖ), much at first and little at the
            end (Zhu & Gupta 2018, whose p is 3).
        power: p, at least 1.
    """
    if not 0 <= final <= 1:
        raise KMRError(f"the final sparsity must lie in [0, 1], not {final}")
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
    """Turn sparsities of the whole into the share that each step removes of what the step before left."""
    left = 1.0
    shares = []
    for sparsity in sparsities:
        shares.append(1 - (1 - sparsity) / left if left > 0 else 0.0)
        left = 1 - sparsity
    return shares
