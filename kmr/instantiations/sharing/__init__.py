"""Weight sharing across layers and blocks (Algorithm 9).

Made of: the weight that several layers share (`fit`), its place in the model (`tie`), the choice of mergers
(`sharing_rule`) and a rule for layers and one for blocks. `hybrid` is the algorithm's loop over decomposing, sharing
and clustering, as an instantiation for the engine.
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
