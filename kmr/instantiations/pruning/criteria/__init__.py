"""Criteria of channel importance, each a class that a config selects by `_target_`.

Known methods combine a criterion with a scope of ranking. L1 filter pruning is `L1` within each layer, network slimming
`NormScale` over all layers, FPGM `GeometricMedian`, APoZ `NonZeros`, Molchanov's method `Taylor` over all layers.
Isomorphic pruning is any of them among groups of the same kind. `Reconstruction` over all layers chooses channels for a
least-squares reconstruction.
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
