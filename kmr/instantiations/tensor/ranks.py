"""Ranks of a decomposition: the most energy within a limit on its size, or the fewest that keep an energy."""

from collections.abc import Callable, Sequence

from torch import Tensor

from kmr.instantiations.lowrank import energy_rank, rank_between, variational_rank


def fitting_ranks(spectra: Sequence[Tensor], fits: Callable[[tuple[int, ...]], float]) -> tuple[int, ...] | None:
    """Return ranks within a limit, raised one by one where a step adds the most energy for its cost.

    The error of ranks (r₁, …) is at most Σₖ Σ_{i > rₖ} σₖᵢ², the sum that each step lowers.

    Args:
        spectra: the singular values of the matrix behind each rank, descending.
        fits: returns the share of the limit that ranks take; above 1 they do not fit. It grows with each rank.

    Returns:
        The ranks, or None where not even ranks of 1 fit.
    """
    ranks = (1,) * len(spectra)
    taken = fits(ranks)
    if taken > 1:
        return None
    squares = [singular.double().square().tolist() for singular in spectra]
    while True:
        best: tuple[float, tuple[int, ...], float] | None = None
        for k, energies in enumerate(squares):
            if ranks[k] == len(energies):
                continue
            raised = (*ranks[:k], ranks[k] + 1, *ranks[k + 1 :])
            then = fits(raised)
            gain = energies[ranks[k]] / max(then - taken, 1e-12)
            if then <= 1 and (best is None or gain > best[0]):
                best = gain, raised, then
        if best is None:
            return ranks
        _, ranks, taken = best


def variational_ranks(spectra: Sequence[Tensor], shapes: Sequence[tuple[int, int]], share: float) -> tuple[int, ...]:
    """Return ranks this share of the way from those that stand out from noise (Kim et al. 2016) to the full ones.

    Args:
        spectra: as for `fitting_ranks`.
        shapes: of these matrices.
        share: 0 to 1.
    """
    return tuple(
        rank_between(variational_rank(singular, shape), len(singular), share)
        for singular, shape in zip(spectra, shapes, strict=True)
    )


def energy_ranks(spectra: Sequence[Tensor], energy: float) -> tuple[int, ...]:
    """Return the smallest ranks whose errors are each an even part of the allowed one.

    The decomposition then keeps at least this share of the sum of squares: its error is at most the sum of the errors
    of each rank (De Lathauwer et al. 2000, property 10; Oseledets 2011, theorem 2.2).

    Args:
        spectra: as for `fitting_ranks`.
        energy: 0 to 1.
    """
    each = 1 - (1 - energy) / len(spectra)
    return tuple(energy_rank(singular, each) for singular in spectra)
