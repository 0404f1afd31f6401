"""Quantization: weights and activations on a few levels (Algorithms 5 and 6), and bits for each layer.

A method is a choice of levels, which is a pure function of the weight (`quantizers`) or of what calibration saw of an
activation (`ranges`); of a rounding (to nearest, or `rounding`'s that minds the layer's outputs); and of the layers it
is put on (a rule). Holding weights on levels through training is `kmr.representation.weights.Grid` and `Codebook`,
activations `kmr.representation.activations`, the same for every method: training a quantized model is
quantization-aware training. What makes rounding easier first (`folding`, `equalization`) leaves what the model computes
as it is.
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
