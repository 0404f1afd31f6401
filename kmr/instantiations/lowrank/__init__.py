"""Low rank: layers as products of thinner ones (Algorithm 8).

A method chooses the matrix that a weight is read as, the norm of the error (`factors`: of the weights, or with
`moments` of the outputs) and the rank (`ranks`); a truncated singular value decomposition does the rest.
"""

from kmr.instantiations.lowrank.factors import Spectrum, spectrum, truncated_factors
from kmr.instantiations.lowrank.low_rank import LowRank
from kmr.instantiations.lowrank.moments import input_moments
from kmr.instantiations.lowrank.ranks import energy_rank, kept_rank, rank_between, share_rank
from kmr.instantiations.lowrank.variational import variational_rank

__all__ = [
    "LowRank",
    "Spectrum",
    "energy_rank",
    "input_moments",
    "kept_rank",
    "rank_between",
    "share_rank",
    "spectrum",
    "truncated_factors",
    "variational_rank",
]
