"""Weights shared across layers (Algorithm 9): which layers, what weight they share (`fit`), and the rule."""

from kmr.instantiations.sharing.fit import Merge, merges, shared_weight
from kmr.instantiations.sharing.rule import ChannelAffine, WeightSharing

__all__ = ["ChannelAffine", "Merge", "WeightSharing", "merges", "shared_weight"]
