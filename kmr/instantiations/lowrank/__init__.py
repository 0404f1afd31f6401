"""Low rank: layers as products of thinner ones (Algorithm 8).

A method is which matrix a layer's weight is read as, in which norm it is approximated (`factors`: that of its weights,
or with `moments` that of its outputs), and which rank it gets (`ranks`); a truncated singular value decomposition does
the rest.
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
