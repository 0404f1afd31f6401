"""Quantization: weights and activations on a few levels (Algorithms 5 and 6), and bits for each layer.

A method combines levels, rounding and layers. Levels are a pure function of the weight (`quantizers`) or of an
activation's calibration statistics (`ranges`). Rounding is to nearest, or to preserve the layer's outputs (`rounding`).
A rule selects the layers. All methods share their representation: `Grid` and `Codebook` of `kmr.representation.weights`
keep weights on levels in training, and `kmr.representation.activations` rounds activations, so that training a
quantized model is quantization-aware training. Preparations that ease rounding (`folding`, `equalization`) preserve the
model's outputs.
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
