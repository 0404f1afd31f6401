"""Weights shared across layers (Algorithm 9): which layers, what weight they share (`fit`), and the rule.

`hybrid` is the algorithm's loop over decomposing, sharing and clustering, as an instantiation for the engine.
"""

from kmr.instantiations.sharing.fit import Merge, merges, shared_weight
from kmr.instantiations.sharing.hybrid import hybrid
from kmr.instantiations.sharing.rule import ChannelAffine, WeightSharing

__all__ = ["ChannelAffine", "Merge", "WeightSharing", "hybrid", "merges", "shared_weight"]
