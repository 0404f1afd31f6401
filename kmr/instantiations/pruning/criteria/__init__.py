"""Which channels matter least: each criterion is a class a config selects by `_target_`.

Known methods are a criterion and a way of ranking: L1 filter pruning is `L1` within each layer, network slimming
`NormScale` over all layers, FPGM `GeometricMedian`, APoZ `NonZeros`, Molchanov's `Taylor` over all layers, isomorphic
pruning any of them among groups of the same kind; channels chosen by and for least-squares reconstruction are
`Reconstruction` over all layers.
"""

from kmr.instantiations.pruning.criteria.activation import MeanActivation, NonZeros
from kmr.instantiations.pruning.criteria.base import Criterion
from kmr.instantiations.pruning.criteria.magnitude import L1, L2, GeometricMedian, NormScale, Random
from kmr.instantiations.pruning.criteria.reconstruction import Reconstruction
from kmr.instantiations.pruning.criteria.taylor import Taylor

__all__ = [
    "L1", "L2", "Criterion", "GeometricMedian", "MeanActivation", "NonZeros", "NormScale", "Random",
    "Reconstruction", "Taylor",
]  # fmt: skip
