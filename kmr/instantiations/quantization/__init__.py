"""Quantization: weights on grids (Algorithm 5).

A method is a choice of grid, which is a pure function of the weight (`quantizers`), and of the layers it is put on (a
rule). Holding weights on a grid through training is `kmr.weights.Grid`, the same for every method.
"""

from kmr.instantiations.quantization.clustering import WeightClustering
from kmr.instantiations.quantization.quantizers import (
    QUANTIZERS,
    Quantizer,
    affine_grid,
    channel_dim,
    fit_codebook,
    fit_grid,
    fit_like,
    kmr_grid,
    midrise_grid,
    symmetric_grid,
)
from kmr.instantiations.quantization.sensitivity import (
    Sensitivity,
    as_sequence,
    as_vector,
    measure_sensitivity,
    per_layer,
)
from kmr.instantiations.quantization.static import DynamicQuantization, StaticQuantization
from kmr.instantiations.quantization.weights import WeightQuantization

__all__ = [
    "DynamicQuantization",
    "QUANTIZERS",
    "Quantizer",
    "Sensitivity",
    "StaticQuantization",
    "WeightClustering",
    "WeightQuantization",
    "affine_grid",
    "as_sequence",
    "as_vector",
    "channel_dim",
    "fit_codebook",
    "fit_grid",
    "fit_like",
    "kmr_grid",
    "measure_sensitivity",
    "midrise_grid",
    "per_layer",
    "symmetric_grid",
]
