"""Low rank: layers as products of thinner ones (Algorithm 8).

A method is a factorisation of a matrix or tensor, which is a pure function (`truncated_factors`), and the
layers that compute with the factors.
"""

from kmr.instantiations.lowrank.svd import LowRank, kept_rank, replace_module, truncated_factors

__all__ = ["LowRank", "kept_rank", "replace_module", "truncated_factors"]
