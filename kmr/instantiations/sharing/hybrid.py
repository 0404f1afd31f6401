"""Algorithm 9 as an instantiation: the engine's loop selects among tensor, sharing and clustering transformations.

A policy over these knobs is the paper's `select T`; that it may alternate between them is its hybrid transformation.
"""

from collections.abc import Sequence

from kmr.core import Cost, Instantiation, Quality
from kmr.instantiations.quantization import WeightClustering
from kmr.instantiations.sharing.weight_sharing import WeightSharing
from kmr.instantiations.tensor import TensorDecomposition


def hybrid(costs: Sequence[Cost], qualities: Sequence[Quality] = (), *, seed: int = 0) -> Instantiation:
    """Return tensor decompositions, weight sharing and weight clustering as one instantiation, in this order.

    Args:
        costs: of the instantiation.
        qualities: of the instantiation.
        seed: of the rules.
    """
    rules = (TensorDecomposition(seed=seed), WeightSharing(seed=seed), WeightClustering(seed=seed))
    return Instantiation("hybrid", rules, tuple(costs), tuple(qualities))
