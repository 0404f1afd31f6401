"""Weights shared across layers (Algorithm 9): which layers, what weight they share (`fit`), how they
come to be one (`tie`), and the rules, over layers and over whole blocks.

`hybrid` is the algorithm's loop over decomposing, sharing and clustering, as an instantiation for the engine.
"""

from kmr.instantiations.sharing.block_sharing import BlockSharing
from kmr.instantiations.sharing.fit import Merge, merges, merges_together, shared_weight
from kmr.instantiations.sharing.hybrid import hybrid
from kmr.instantiations.sharing.tie import ChannelAffine, Corrected
from kmr.instantiations.sharing.weight_sharing import WeightSharing

__all__ = [
    "BlockSharing",
    "ChannelAffine",
    "Corrected",
    "Merge",
    "WeightSharing",
    "hybrid",
    "merges",
    "merges_together",
    "shared_weight",
]
